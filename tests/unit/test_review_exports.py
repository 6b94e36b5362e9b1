"""No answer that a person gave in another tool is lost, none is invented, whatever the shape of the export.

The shapes are those that argilla 2.8, argilla 1.29 and label-studio-converter 0.0.59 write.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from workspace_world import judgments

from serm import contracts
from serm.cli import app
from serm.errors import UserError
from serm.judging.review import Export, Reviews, read_export, write_tasks
from serm.workspace.mending import correct, retire
from serm.workspace.merge import keep

Responses = list[tuple[object, str, str | None]]
"""Value, user and status."""
KEY = {"query": "cat", "locale": "en", "doc_id": "d1"}
NO_STATUS = "have no status in this export: make one with to_datasets(), or to_list(flatten=True), which keep it"


def exported(path: Path, rows: object) -> Export:
    path.write_text(json.dumps(rows))
    return read_export(path)


def record(responses: Responses, status: str = "completed") -> dict[str, object]:
    """As ``records.to_json`` writes it: a response has no status there."""
    given = [{"value": value, "user_id": user} for value, user, _ in responses]
    fields = {"query": "cat", "document": "a cat", "evidence": "-"}
    metadata = {"locale": "en", "doc_id": "d1", "priority": 0.5}
    return {"id": "i", "fields": fields, "metadata": metadata, "responses": {"grade": given}, "status": status}


def told(responses: Responses) -> dict[str, object]:
    """The same with each response's status."""
    row = record(responses)
    for one, (_, _, status) in zip(row["responses"]["grade"], responses, strict=True):
        one["status"] = status
    return row


def flat(responses: Responses) -> dict[str, object]:
    """As ``to_datasets`` and ``to_list(flatten=True)`` write it."""
    columns = dict(zip(("", ".users", ".status"), map(list, zip(*responses, strict=True)), strict=True))
    return KEY | {"status": "pending"} | {f"grade.responses{name}": cells for name, cells in columns.items()}


def served(responses: Responses) -> dict[str, object]:
    """As the server's API and ``UserResponse.to_dict`` give it: all questions of a user."""
    users = [
        {"values": None if value is None else {"grade": {"value": value}}, "user_id": user, "status": status}
        for value, user, status in responses
    ]
    return record([]) | {"responses": users}


def first_generation(responses: Responses) -> dict[str, object]:
    """As Argilla 1's ``format_as("datasets")`` writes it."""
    given = [{"user_id": user, "value": value, "status": status} for value, user, status in responses]
    return {
        "query": "cat",
        "grade": given,
        "external_id": "i",
        "metadata": json.dumps({"locale": "en", "doc_id": "d1"}),
    }


def transposed(responses: Responses) -> dict[str, object]:
    """The same where ``datasets`` turned the list of structs into a struct of lists."""
    columns = dict(zip(("value", "user_id", "status"), map(list, zip(*responses, strict=True)), strict=True))
    return first_generation([]) | {"grade": columns}


TOLD = (told, flat, served, first_generation, transposed)


@pytest.mark.parametrize("shape", TOLD)
def test_what_was_submitted_counts_and_what_was_drafted_or_discarded_does_not(shape: Callable, tmp_path: Path) -> None:
    responses: Responses = [(3, "u", "submitted"), (0, "v", "draft"), (1, "w", "discarded"), (None, "x", "discarded")]
    found = exported(tmp_path / "export.json", [shape(responses)])
    assert [(one.key, one.grade) for one in found.answers] == [(("cat", "en", "d1"), 3)]
    assert found.left_out == {"are drafts": [1], "are discarded": [1, 1]}


@pytest.mark.parametrize(
    ("responses", "status", "grades", "left_out"),
    [
        ([(2, "u", None)], "completed", [2], {}),
        ([(2, "u", None)], "pending", [], {NO_STATUS: [1]}),
        ([(None, "u", None)], "pending", [], {"have no grade": [1]}),
        ([(2, "u", None), (None, "v", None)], "completed", [2], {"have no grade": [1]}),
        ([(2, "u", None), (2, "v", None)], "completed", [2], {}),
        ([(2, "u", None), (1, "v", None)], "completed", [], {NO_STATUS: [1, 1]}),
        ([(2, "u", None)], "submitted", [2], {}),
        ([(2, "u", None)], "discarded", [], {"are discarded": [1]}),
        ([], "pending", [], {}),
    ],
)
def test_of_a_record_without_its_responses_statuses_only_what_is_certain_counts(
    responses: Responses, status: str, grades: list[int], left_out: dict, tmp_path: Path
) -> None:
    found = exported(tmp_path / "records.json", [record(responses, status)])
    assert ([one.grade for one in found.answers], found.left_out) == (grades, left_out)


@given(
    responses=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3]), st.sampled_from(["submitted", "draft", "discarded"])), max_size=5
    ),
    shape=st.sampled_from(TOLD),
    layout=st.sampled_from(["list", "columns", "lines", "parquet", "csv"]),
)
@settings(max_examples=examples(150))
def test_every_submitted_answer_comes_back_from_every_shape(
    responses: list, shape: Callable, layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given_by = [(value, f"user-{number}", status) for number, (value, status) in enumerate(responses)]
    row = shape(given_by) if given_by else first_generation([])
    path = tmp_path_factory.mktemp("export") / "export"
    if layout == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif layout == "csv" and shape is flat and given_by:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)
    elif layout == "lines":
        path.write_text("\ufeff" + json.dumps(row) + "\r\n\n" + json.dumps(row) + "\n")
    else:
        path.write_text(json.dumps({name: [cell] for name, cell in row.items()} if layout == "columns" else [row]))
    found = read_export(path)
    rows = 2 if layout == "lines" else 1
    submitted = [value for value, status in responses if status == "submitted"]
    assert sorted(one.grade for one in found.answers) == sorted(submitted * rows)
    assert {one.key for one in found.answers} <= {("cat", "en", "d1")}
    assert len({one.by for one in found.answers}) == len(submitted)
    assert len(found.answers) + sum(map(len, found.left_out.values())) == rows * len(responses)


def task(*annotations: dict, **data: object) -> dict[str, object]:
    return {"id": 1, "data": KEY | {"document": "a cat"} | data, "annotations": list(annotations)}


def annotation(choice: object, by: object = 1, **more: object) -> dict[str, object]:
    value = choice if isinstance(choice, dict) else {"choices": [choice]}
    result = [{"from_name": "grade", "to_name": "document", "type": "choices", "value": value}]
    return {"completed_by": by, "was_cancelled": False, "result": result, **more}


def test_label_studios_json_gives_annotations_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        task(annotation("3 excellent", {"id": 1, "email": "a@example.com"}), annotation("1 fair", 2)),
        task(annotation("2 good", was_cancelled=True), doc_id="d2"),
        task(doc_id="d3") | {"predictions": [annotation("0 bad")], "drafts": [annotation("1 fair")]},
        task({"completed_by": 1, "result": []}, annotation({"choices": ["1 fair", "2 good"]}), doc_id="d4"),
        task(annotation({"rating": 2}), annotation({"number": 7}), annotation("awful"), 17, doc_id="d5"),
        {"id": 2, "data": KEY | {"doc_id": 4711}, "completions": [annotation("Bad"), annotation("1", skipped=True)]},
    ]
    found = exported(tmp_path / "export.json", rows)
    assert [(one.key[2], one.grade) for one in found.answers if one.key] == [
        ("d1", 3),
        ("d1", 1),
        ("d5", 2),
        ("4711", 0),
    ]
    assert found.left_out == {
        "are cancelled": [2, 6],
        "are drafts": [3],
        "have no grade": [4],
        "have several grades at once": [4],
        "are not a grade from 0 to 3": [5, 5],
        "are annotations without their results": [5],
    }
    assert "example.com" not in repr(found)


CONVERTED = [
    {"annotation_id": 6, "annotator": "2", "doc_id": "d1", "document": 'a, "b"\nc', "grade": "1 fair", "id": 1}
    | {"identity": "x", "locale": "en", "query": "cat", "created_at": "2024-01-02", "updated_at": ""},
    {"annotation_id": 5, "annotator": "a@b.c", "doc_id": "d1", "document": 'a, "b"\nc', "grade": "3 excellent", "id": 1}
    | {"identity": "x", "locale": "en", "query": "cat", "created_at": "2024-01-01", "updated_at": "2024-01-01"},
    {"annotation_id": "", "annotator": "", "doc_id": "d3", "document": "x", "grade": "", "id": 3}
    | {"identity": "z", "locale": "en", "query": "cat", "created_at": "", "updated_at": ""},
]


@pytest.mark.parametrize("shape", ["json-min", "csv", "tsv"])
def test_label_studios_flat_exports_give_the_same_answers(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    if shape == "json-min":
        path.write_text(json.dumps(CONVERTED))
    else:
        text = io.StringIO(newline="")
        separator = "," if shape == "csv" else "\t"
        writer = csv.DictWriter(text, sorted(CONVERTED[0]), quoting=csv.QUOTE_NONNUMERIC, delimiter=separator)
        writer.writeheader()
        writer.writerows(CONVERTED)
        path.write_text("\ufeff" + text.getvalue())
    found = read_export(path)
    assert [(one.key, one.grade, one.at) for one in found.answers] == [
        (("cat", "en", "d1"), 1, "2024-01-02"),
        (("cat", "en", "d1"), 3, "2024-01-01"),
    ]
    assert len({one.by for one in found.answers}) == 2
    assert found.left_out == {"have no grade": [3]}


NAMES = (
    *("data", "annotations", "completions", "drafts", "result", "from_name", "value", "choices", "annotator"),
    *("grade", "responses", "values", "question_name", "status", "grade.responses", "grade.responses.status"),
    *("metadata", "fields", "query", "locale", "doc_id"),
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(NAMES),
                inner,
                max_size=6,
            )
        ),
        max_leaves=25,
    )
)
@settings(max_examples=examples(400))
def test_nothing_that_a_file_holds_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.mktemp("export") / "export.json"
    with contextlib.suppress(UserError):
        assert all(one.grade in (0, 1, 2, 3) for one in exported(path, content).answers)


@pytest.fixture
def made(annotated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(annotated, tmp_path / "world")


def reviews(world: Path) -> Reviews:
    return Reviews(world / "out", world / "validated", world / "reviewed")


def review(world: Path, *arguments: str) -> str:
    paths = ["--annotated", world / "out", "--validated", world / "validated", "--out", world / "reviewed"]
    done = CliRunner().invoke(app, ["review", *map(str, paths), *arguments])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_pairs_of_another_queue_are_taken_or_named(made: Path, tmp_path: Path) -> None:
    rows = [task(annotation("2 good"), query="an older query", doc_id="en-7")]
    nameless = task(annotation("1 fair"))
    nameless["data"] = {"document": "a cat", "identity": "0123456789abcdef"}
    (tmp_path / "tasks.json").write_text(json.dumps([*rows, nameless, task(annotation("3"), query="half \ud800")]))
    told_user = review(made, "--import", str(tmp_path / "tasks.json"))
    assert "1 judgments taken from" in told_user
    assert "1 of them not of this queue" in told_user
    assert (
        "2 answers left out, which are of pairs that neither the queue nor the export names (rows 2, 3)." in told_user
    )
    (row,) = contracts.read(made / "reviewed", contracts.JUDGMENTS).to_pylist()
    assert (row["query"], row["doc_id"], row["grade"], row["cycle"]) == ("an older query", "en-7", 2, 2)


def test_a_queue_that_argilla_exported_without_metadata_is_known_by_its_ids(made: Path, tmp_path: Path) -> None:
    of, path = reviews(made), tmp_path / "records.json"
    write_tasks(of.left, path, "argilla")
    (first, *_) = json.loads(path.read_text())
    first |= {"metadata": {}, "status": "completed", "responses": {"grade": [{"value": 2, "user_id": "u"}]}}
    path.write_text(json.dumps([first]))
    assert of.take(read_export(path).answers).changed == 1
    assert list(of.graded) == [next(iter(of.items))]


def test_argilla_can_flatten_what_is_written_for_it(made: Path, tmp_path: Path) -> None:
    write_tasks(reviews(made).left, tmp_path / "records.json", "argilla")
    for one in json.loads((tmp_path / "records.json").read_text()):
        assert not set(one["fields"]) & set(one["metadata"]) & {*one}


def test_each_persons_answer_is_kept_and_most_people_decide(made: Path, tmp_path: Path) -> None:
    of = reviews(made)
    first, second, third, *_ = of.items
    path = tmp_path / "tasks.json"

    def on(key: tuple[str, str, str], *annotations: dict) -> dict[str, object]:
        return task(*annotations, **dict(zip(("query", "locale", "doc_id"), key, strict=True)))

    once, again = annotation("0 bad", 1, created_at="2024-01-01"), annotation("3 excellent", 1, created_at="2024-01-02")
    rows = [
        on(first, annotation("2 good", 1)),
        on(first, annotation("2 good", 2), annotation("1 fair", 3)),  # a second task of the same pair
        on(second, again, once),
        on(third, annotation("1 fair", 1), annotation("2 good", 2)),
    ]
    path.write_text(json.dumps(rows))
    told_user = review(made, "--import", str(path))
    assert "2 judgments taken" in told_user
    assert "1 pairs without a grade: people differ evenly" in told_user
    assert reviews(made).graded == {first: (2, ""), second: (3, "")}
    kept = [json.loads(line) for line in (made / "reviewed" / "answers.jsonl").read_text().splitlines()]
    assert sorted(one["grade"] for one in kept) == [1, 1, 2, 2, 2, 3]
    of.refresh()
    of.grade(first, 0, "a person looked again")
    assert "0 judgments taken" in review(made, "--import", str(path))
    assert reviews(made).graded[first] == (0, "a person looked again")


def test_an_answer_that_is_older_than_a_persons_last_word_changes_nothing(made: Path, tmp_path: Path) -> None:
    """Whichever arrives first: a correction, a retirement, a grade on the page or a later export of the tool."""
    of = reviews(made)
    corrected, taken_out, on_page, elsewhere, *_ = keys = list(of.items)
    state, path = made / "state" / "judgments", tmp_path / "tasks.json"
    contracts.write(judgments([(taken_out[0], taken_out[2], 2)]), state, contracts.JUDGMENTS)
    correct(state, corrected, 3, "Ada", "it is one", 1)
    retire(state, taken_out, "Ada", "sold out")
    of.refresh()
    of.grade(on_page, 0)

    def taken(grade: str, at: str) -> str:
        names = ("query", "locale", "doc_id")
        rows = [task(annotation(grade, 1, created_at=at), **dict(zip(names, key, strict=True))) for key in keys[:4]]
        path.write_text(json.dumps(rows))
        return review(made, "--import", str(path))

    assert "1 judgments taken" in taken("1 fair", "2024-01-02T09:30:00.5Z")
    assert "0 judgments taken" in taken("2 good", "2024-01-02T10:00:00+02:00")
    assert {key: grade for key, (grade, _) in reviews(made).graded.items()} == {corrected: 3, on_page: 0, elsewhere: 1}
    assert "4 judgments taken" in taken("2 good", "2999-01-01T10:00:00Z")


def test_a_later_answer_to_an_earlier_cycles_queue_stands_before_a_correction(made: Path) -> None:
    of, state = reviews(made), made / "state" / "judgments"
    (key, *_) = of.items
    contracts.write(judgments([(key[0], key[2], 2)]), state, contracts.JUDGMENTS)
    correct(state, key, 3, "Ada", "it is one", 9)
    of.refresh()
    of.grade(key, 1)
    (stands,) = keep(contracts.read(made / "reviewed", contracts.JUDGMENTS), state).to_pylist()
    assert (stands["grade"], stands["cycle"]) == (1, 9)
