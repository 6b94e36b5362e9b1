"""What people grade: kept at once, blinded until then, undone, and exchanged with other tools."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from judging_world import NAMES
from starlette.testclient import TestClient
from typer.testing import CliRunner

from serm import contracts
from serm.cli import app
from serm.errors import UserError
from serm.judging.agreement import Decision
from serm.judging.judge import Pairs
from serm.judging.records import review_table
from serm.judging.review import Reviews, application, listen, read_export, write_tasks

BASE = "http://127.0.0.1"


@pytest.fixture
def made(annotated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(annotated, tmp_path, dirs_exist_ok=True))


def reviews(world: Path) -> Reviews:
    return Reviews(world / "out", world / "validated", world / "reviewed")


def client(of: Reviews) -> TestClient:
    page = TestClient(application(of), base_url=BASE)
    page.headers["x-serm-token"] = page.get("/").text.split('data-token="')[1].split('"')[0]
    return page


def act(page: TestClient, action: str, **asked: object) -> dict:
    return page.post(f"/{action}", content=json.dumps(asked)).json()


def test_a_grade_is_kept_at_once_and_only_then_tells_the_judges(made: Path) -> None:
    of = reviews(made)
    page = client(of)
    before = page.get("/state").json()
    secret = next(iter(of.items.values()))
    assert before["pair"]["title"] in NAMES
    assert set(before["pair"]) == {"identity", "query", "locale", "doc_id", "title", "body", "evidence"}
    assert all(vote["rationale"] not in json.dumps(before) for vote in secret.votes)
    after = act(page, "grade", identity=before["pair"]["identity"], grade=2, note="a cat, yes")
    assert after["judged"]["votes"] == secret.votes
    assert (after["graded"], after["total"]) == (1, len(of.items))
    assert after["pair"]["identity"] != before["pair"]["identity"]
    (row,) = contracts.read(made / "reviewed", contracts.JUDGMENTS).to_pylist()
    assert (row["query"], row["locale"], row["doc_id"]) == secret.key
    assert (row["grade"], row["source"], row["rationale"], row["cycle"]) == (2, "human", "a cat, yes", 2)


def test_a_pair_whose_document_is_gone_leaves_the_queue(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    queued = list(reviews(made).items)
    gone = queued[0][2]
    path = made / "validated" / "documents"
    documents = contracts.read(path, contracts.DOCUMENTS)
    contracts.write(documents.filter(pc.not_equal(documents["doc_id"], gone)), path, contracts.DOCUMENTS)
    assert list(reviews(made).items) == [key for key in queued if key[2] != gone]
    assert f"such as doc_id {gone!r}" in caplog.text
    contracts.write(documents, path, contracts.DOCUMENTS)
    assert list(reviews(made).items) == queued


def test_undo_and_skip(made: Path) -> None:
    page = client(reviews(made))
    first = page.get("/state").json()["pair"]["identity"]
    second = act(page, "skip", identity=first)["pair"]["identity"]
    act(page, "grade", identity=second, grade=0)
    undone = act(page, "undo")
    assert undone["pair"]["identity"] == second
    assert (undone["graded"], undone["undoable"]) == (0, False)
    assert contracts.read(made / "reviewed", contracts.JUDGMENTS).num_rows == 0


def test_a_new_sitting_goes_on_and_keeps_other_cycles(made: Path) -> None:
    of = reviews(made)
    for item in of.left[:3]:
        of.grade(item.key, 1)
    again = reviews(made)
    assert len(again.left) == len(again.items) - 3
    again.items.pop(next(iter(again.graded)))
    earlier = contracts.read(made / "reviewed", contracts.JUDGMENTS).num_rows
    fresh = reviews(made)
    fresh.grade(fresh.left[0].key, 3)
    assert contracts.read(made / "reviewed", contracts.JUDGMENTS).num_rows == earlier + 1


def test_only_the_page_itself_may_grade(made: Path) -> None:
    of = reviews(made)
    page = client(of)
    identity = page.get("/state").json()["pair"]["identity"]
    asked = json.dumps({"identity": identity, "grade": 3})
    assert page.post("/grade", content=asked, headers={"x-serm-token": "guessed"}).status_code == 403
    assert TestClient(application(of), base_url="http://evil.example").get("/").status_code == 400
    for wrong, status in (({"identity": identity, "grade": 4}, 400), ({"identity": "x", "grade": 1}, 409), ([], 400)):
        assert page.post("/grade", content=json.dumps(wrong)).status_code == status
    assert not of.graded


def test_label_studio_there_and_back(made: Path, tmp_path: Path) -> None:
    of, path = reviews(made), tmp_path / "tasks.json"
    assert write_tasks(of.left, path, "label-studio") == len(of.items)
    tasks = json.loads(path.read_text())
    assert not any(vote["rationale"] in path.read_text() for item in of.left for vote in item.votes)

    def choice(name: str) -> dict:
        value = {"choices": [name]}
        return {"from_name": "grade", "to_name": "document", "type": "choices", "value": value}

    tasks[0]["annotations"] = [{"result": [choice("3 excellent")], "was_cancelled": False}]
    tasks[1]["annotations"] = [{"result": [], "was_cancelled": True}]
    tasks[2]["annotations"] = [{"result": [choice(name)]} for name in ("1 fair", "2 good")]
    tasks[3]["annotations"] = [{"result": [choice(name)]} for name in ("1 fair", "0 bad", "1 fair")]
    path.write_text(json.dumps(tasks))
    taken = of.take(read_export(path).answers)
    assert taken.changed == 2
    keys = [item.key for item in reviews(made).items.values()]
    assert of.graded == {keys[0]: (3, ""), keys[3]: (1, "")}
    assert taken.divided == [keys[2]]
    assert contracts.read(made / "reviewed", contracts.JUDGMENTS)["source"].to_pylist() == ["human"] * 2


def test_argilla_there_and_back(made: Path, tmp_path: Path) -> None:
    of, path = reviews(made), tmp_path / "records.json"
    write_tasks(of.left, path, "argilla")
    records = json.loads(path.read_text())
    assert set(records[0]["fields"]) == {"query", "document", "evidence"}
    records[0]["responses"] = {"grade": [{"value": 2, "user_id": "u", "status": "submitted"}]}
    records[1]["responses"] = {"grade": [{"value": 2, "user_id": "u", "status": "draft"}]}
    path.write_text(json.dumps(records))
    assert of.take(read_export(path).answers).changed == 1
    assert list(of.graded.values()) == [(2, "")]


def test_the_command_line_writes_and_reads_another_tools_file(made: Path) -> None:
    paths = ["--annotated", made / "out", "--validated", made / "validated", "--out", made / "reviewed"]
    command, file = ["review", *map(str, paths), "--tool", "argilla"], made / "records.json"
    written = CliRunner().invoke(app, [*command, "--export", str(file)])
    records = json.loads(file.read_text())
    assert f"{len(records)} pairs written" in written.output.replace("\n", " ")
    records[0]["responses"] = {"grade": [{"value": 1, "user_id": "u", "status": "submitted"}]}
    file.write_text(json.dumps(records))
    read = CliRunner().invoke(app, [*command, "--import", str(file)])
    assert read.output.startswith("1 judgments taken")
    assert contracts.read(made / "reviewed", contracts.JUDGMENTS)["grade"].to_pylist() == [1]


@pytest.mark.parametrize("text", ["[1]", "not json", '[{"data": {}}]', "{", '[{"a": ' * 20_000, "\x00"])
def test_another_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not an export of label-studio or argilla"):
        read_export(path)


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_an_export_of_nothing_has_no_answers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text)
    assert read_export(path).answers == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grade", 1.9),
        ("grade", 2.0),
        ("grade", "2"),
        ("grade", True),
        ("grade", None),
        ("grade", float("nan")),
        ("grade", 4),
        ("grade", -1),
        ("grade", 2**70),
        ("grade", [2]),
        ("note", 7),
        ("note", None),
        ("note", "x" * 1001),
        ("identity", 3),
    ],
)
def test_what_is_no_grade_is_refused_with_its_field(made: Path, field: str, value: object) -> None:
    of = reviews(made)
    page = client(of)
    asked = {"identity": next(iter(of.items.values())).identity, "grade": 1, "note": "", field: value}
    refused = page.post("/grade", content=json.dumps(asked))
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{field}: expected")
    assert page.get("/state").json()["graded"] == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"", 400), (b"\xff", 400), (b"[" * 10_000, 400), (b"3", 400), (b"x" * 20_000, 413)],
)
def test_another_body_is_refused(made: Path, body: bytes, status: int) -> None:
    assert client(reviews(made)).post("/grade", content=body).status_code == status


def test_only_an_action_of_the_page_does_something(made: Path) -> None:
    of = reviews(made)
    page = client(of)
    act(page, "grade", identity=page.get("/state").json()["pair"]["identity"], grade=2)
    assert page.post("/elsewhere", content="{}").status_code == 404
    assert len(of.graded) == 1


def test_a_note_that_utf_8_cannot_hold_is_kept_and_blocks_no_later_grade(made: Path) -> None:
    page = client(reviews(made))
    first = page.get("/state").json()["pair"]["identity"]
    told = page.post(
        "/grade", content=f'{{"identity": "{first}", "grade": 1, "note": "half \\ud800 a \\ud83d\\ude00"}}'
    )
    assert told.json()["judged"]["note"] == "half \ufffd a \U0001f600"
    act(page, "grade", identity=told.json()["pair"]["identity"], grade=2)
    rows = contracts.read(made / "reviewed", contracts.JUDGMENTS).to_pylist()
    assert {row["rationale"] for row in rows} == {"half \ufffd a \U0001f600", None}


def test_a_grade_that_cannot_be_saved_is_not_counted(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = client(reviews(made))
    first = page.get("/state").json()["pair"]["identity"]

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serm.judging.review.reviews.replace_directory", full)
    refused = page.post("/grade", content=json.dumps({"identity": first, "grade": 3}))
    assert (refused.status_code, "No space left on device" in refused.json()["error"]) == (507, True)
    state = page.get("/state").json()
    assert (state["graded"], state["undoable"], state["pair"]["identity"]) == (0, False, first)
    monkeypatch.undo()
    assert act(page, "grade", identity=first, grade=3)["graded"] == 1


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port {port}: Address already in use; give another one with --port\.$"):
            listen(port)


def test_grades_that_a_killed_write_had_set_aside_are_not_taken_for_none(made: Path) -> None:
    of = reviews(made)
    first, second, *_ = of.items
    of.grade(first, 2)
    (made / "reviewed").rename(made / ".reviewed.aside")  # as a kill between the two renames leaves it
    again = reviews(made)
    again.grade(second, 3)
    assert again.graded == {first: (2, ""), second: (3, "")}


def test_a_person_is_asked_first_where_the_panel_is_least_sure_of_what_a_pair_is_worth() -> None:
    pairs = Pairs(["q"] * 3, ["en"] * 3, ["a", "b", "c"], ["title"] * 3, ["text"] * 3, [None] * 3)
    belief = np.array([[0.5, 0.5, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 1.0]])
    decision = Decision(np.zeros(3, np.int64), np.ones(3), np.zeros(3, bool), ["unsure"] * 3, belief)
    table = review_table(pairs, {}, decision, np.array([0.8, 0.4, 1.0]), 1, "v")
    assert table["priority"].to_pylist() == pytest.approx(
        [0.8 / 7, 0.4, 0.0]
    )  # deviations 1/2, 7/2 and 0 of a gain of 7
