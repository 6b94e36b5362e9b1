"""Validate: each rule finds its rows, no row is lost, and too many bad rows stop the run with a clear sentence."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serm import contracts, validation
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
INPUTS = ("window", "documents", "judgments", "profiles")
LENIENT = {"max_quarantined_share": 1.0, "min_impressions": 1}

#: Changes to a row of the log -> the rules that the row then breaks.
BAD_IMPRESSIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({"query": None}, {"query is missing"}),
    ({"query": " \t"}, {"query is blank"}),
    ({"event_time": None}, {"event_time is missing"}),
    ({"event_time": datetime(2019, 1, 1, tzinfo=UTC)}, {"event_time is outside the window"}),
    ({"locale": "xx"}, {"locale is not in the catalogue"}),
    ({"doc_id": "nowhere"}, {"doc_id is not in the catalogue"}),
    ({"doc_id": None}, {"doc_id is missing"}),
    ({"position": 0}, {"position is below 1"}),
    ({"position": 1001}, {"position is beyond stream.max_position"}),
    ({"clicked": True, "dwell_seconds": -0.5}, {"dwell_seconds is negative or not finite"}),
    ({"clicked": True, "dwell_seconds": float("nan")}, {"dwell_seconds is negative or not finite"}),
    ({"clicked": True, "dwell_seconds": float("inf")}, {"dwell_seconds is negative or not finite"}),
    ({"clicked": False, "dwell_seconds": 3.0}, {"dwell_seconds without a click"}),
    ({"score": 3.01}, {"score is outside 0 to 3"}),
    ({"score": float("nan")}, {"score is outside 0 to 3"}),
    ({"query": "", "locale": "xx"}, {"query is blank", "locale is not in the catalogue"}),
]

BAD_DOCUMENTS: list[tuple[dict[str, Any], set[str]]] = [
    ({"title": "  "}, {"title is blank"}),
    ({"title": None}, {"title is missing"}),
    ({"published_at": datetime(2019, 1, 1, tzinfo=UTC)}, {"published_at is after the window"}),
    ({"doc_id": None}, {"doc_id is missing"}),
]


def changed(table: pa.Table, changes: list[dict[str, Any]]) -> pa.Table:
    """``table`` whose first rows carry ``changes``, one each; nulls are let through, as Parquet does."""
    rows = table.to_pylist()
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    return pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in table.schema]))


def run(folder: Path, impressions: pa.Table, documents: pa.Table, params: Settings) -> dict[str, Any]:
    """Validate the tables in ``folder`` and return validate.json."""
    (folder / "window/impressions").mkdir(parents=True)
    (folder / "documents").mkdir()
    pq.write_table(impressions, folder / "window/impressions/part.parquet")
    pq.write_table(documents, folder / "documents/part.parquet")
    seed = {"query": "word1", "locale": "en", "doc_id": "d50", "grade": 3, "source": "seed", "cycle": 0}
    contracts.write(
        pa.Table.from_pylist([{**dict.fromkeys(contracts.JUDGMENTS.names), **seed}], contracts.JUDGMENTS),
        folder / "judgments",
        contracts.JUDGMENTS,
    )
    window, documents, judgments, profiles = (folder / name for name in INPUTS)
    validation.validate(window, documents, judgments, profiles, folder / "out", params)
    return json.loads((folder / "out/validate.json").read_text())


def quarantined(out: Path, dataset: str) -> list[dict[str, Any]]:
    rows = contracts.read(out / "quarantine", contracts.QUARANTINE).to_pylist()
    return [row for row in rows if row["dataset"] == dataset]


def test_clean_input_is_kept_whole(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    impressions, documents = make_impressions(), make_documents()
    summary = run(tmp_path, impressions, documents, make_settings())
    kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
    assert sorted(kept.to_pylist(), key=repr) == sorted(impressions.to_pylist(), key=repr)
    assert contracts.read(tmp_path / "out/documents", contracts.DOCUMENTS) == documents.sort_by("doc_id")
    assert contracts.read(tmp_path / "out/quarantine", contracts.QUARANTINE).num_rows == 0
    told = {line["rule"] for line in summary["profile"] if line["passed"] is False}
    assert told == {"impressions in locales without a judgment"}


def test_every_rule_of_impressions_finds_its_rows(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = changed(make_impressions(), [change for change, _ in BAD_IMPRESSIONS])
    summary = run(tmp_path, table, make_documents(), make_settings(validation=LENIENT))
    rows = table.to_pylist()
    found = {
        (row["query_id"], row["position"]): set(line["reason"].split("; "))
        for line in quarantined(tmp_path / "out", "impressions")
        for row in [json.loads(line["row"])]
    }
    assert found == {
        (row["query_id"], row["position"]): rules for row, (_, rules) in zip(rows, BAD_IMPRESSIONS, strict=False)
    }
    counted = {
        line["rule"]: line["violations"]
        for line in summary["profile"]
        if line["dataset"] == "impressions" and line["severity"] == "warning" and line["violations"]
    }
    assert counted == Counter(rule for _, rules in BAD_IMPRESSIONS for rule in rules)


def test_every_rule_of_documents_finds_its_rows_and_their_impressions_follow(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    impressions = make_impressions()
    documents = changed(make_documents(), [change for change, _ in BAD_DOCUMENTS])
    run(tmp_path, impressions, documents, make_settings(validation=LENIENT))
    found = [set(line["reason"].split("; ")) for line in quarantined(tmp_path / "out", "documents")]
    assert sorted(found, key=repr) == sorted((rules for _, rules in BAD_DOCUMENTS), key=repr)
    gone = {f"d{number}" for number in range(len(BAD_DOCUMENTS))}
    followers = [json.loads(line["row"])["doc_id"] for line in quarantined(tmp_path / "out", "impressions")]
    assert len(followers) == sum(doc_id in gone for doc_id in impressions["doc_id"].to_pylist()) > 0
    assert set(followers) <= gone


def judged(folder: Path, judgments: pa.Table, documents: pa.Table, impressions: pa.Table, params: Settings) -> Path:
    """Validate with ``judgments``; return the output."""
    tables = {"window/impressions": impressions, "documents": documents, "judgments": judgments}
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "part.parquet")
    window, documents, judgments, profiles = (folder / name for name in INPUTS)
    figures = validation.validate(window, documents, judgments, profiles, folder / "out", params)
    (folder / "figures.json").write_text(json.dumps(figures))
    return folder / "out"


def test_judgments_of_documents_that_are_gone_or_in_quarantine_are_retired(
    make_impressions: Make, make_documents: Make, make_judgments: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """d0 is gone from the catalogue, d1 in quarantine; what remains is judged as ever, and nothing stops."""
    documents = changed(make_documents().slice(1), [{"title": " "}])
    out = judged(tmp_path, make_judgments(), documents, make_impressions(), make_settings(validation=LENIENT))
    summary = json.loads((out / "validate.json").read_text())
    assert summary["datasets"]["judgments"] == {
        "rows_in": 60,
        "rows_kept": 58,
        "rows_quarantined": 0,
        "rows_retired": 2,
    }
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["judgments_retired"], figures["judgments_kept"], figures["judgments_quarantined"]) == (2, 58, 0)
    assert quarantined(out, "judgments") == []
    (told,) = (line for line in summary["profile"] if line["rule"] == "retired judgments")
    assert told["passed"]
    assert told["finding"].startswith("2 of 60 judgments are of documents that are gone or in quarantine")
    counted = contracts.read(out / "profiles", contracts.PROFILES).to_pylist()
    assert sum(row["rows"] for row in counted if row["dataset"] == "judgments") == 60  # no loss of judgments


def test_impressions_of_documents_that_were_taken_out_are_retired_and_stop_nothing(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """Half of the documents are taken out."""
    documents = make_documents()
    gone = pa.table({"doc_id": [f"d{n}" for n in range(30)]})
    contracts.write(documents.slice(30), tmp_path / "documents", contracts.DOCUMENTS)
    contracts.write(gone, tmp_path / "documents/_removed", contracts.REMOVED)
    impressions = make_impressions()
    contracts.write(impressions, tmp_path / "window/impressions", contracts.IMPRESSIONS)
    contracts.write(make_judgments_of("d55"), tmp_path / "judgments", contracts.JUDGMENTS)
    params = make_settings(validation={"min_impressions": 1, "max_retired_share": 0.1})
    window, catalogue, judgments, profiles = (tmp_path / name for name in INPUTS)
    figures = validation.validate(window, catalogue, judgments, profiles, tmp_path / "out", params)
    of_gone = pc.sum(pc.is_in(impressions["doc_id"], gone["doc_id"])).as_py()
    assert (figures["impressions_retired"], figures["impressions_quarantined"]) == (of_gone, 0)
    assert figures["impressions_kept"] == impressions.num_rows - of_gone
    summary = json.loads((tmp_path / "out/validate.json").read_text())
    assert summary["datasets"]["impressions"]["rows_retired"] == of_gone
    (told,) = (line for line in summary["profile"] if line["rule"] == "retired impressions")
    assert (told["passed"], told["severity"]) == (False, "warning")


def make_judgments_of(doc_id: str) -> pa.Table:
    row = dict.fromkeys(contracts.JUDGMENTS.names)
    row |= {"query": "q", "locale": "en", "doc_id": doc_id, "grade": 1, "source": "seed", "cycle": 0}
    return pa.Table.from_pylist([row], contracts.JUDGMENTS)


def test_many_retired_judgments_warn_and_all_of_them_stop_with_one_sentence(
    make_impressions: Make, make_documents: Make, make_judgments: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    judgments, params = make_judgments(), make_settings(validation=LENIENT)
    out = judged(tmp_path / "many", judgments, make_documents().slice(40), make_impressions(), params)
    summary = json.loads((out / "validate.json").read_text())
    (told,) = (line for line in summary["profile"] if line["rule"] == "retired judgments")
    assert (told["passed"], told["value"]) == (False, pytest.approx(2 / 3))
    gone = judgments.set_column(2, "doc_id", pa.array([f"old-{n}" for n in range(60)]))
    with pytest.raises(UserError, match=r"none of the 60 judgments is of a document of .*give the catalogue that was"):
        judged(tmp_path / "all", gone, make_documents(), make_impressions(), params)


def test_a_judgment_of_a_locale_that_left_with_its_documents_is_retired_and_no_other_is_let_through(
    make_impressions: Make, make_documents: Make, make_judgments: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    documents = make_documents()
    documents = documents.filter(pc.not_equal(documents["locale"], "fr"))
    judgments = make_judgments()
    out = judged(tmp_path / "left", judgments, documents, make_impressions(), make_settings(validation=LENIENT))
    assert json.loads((out / "validate.json").read_text())["datasets"]["judgments"]["rows_retired"] == 20
    slipped = changed(judgments, [{"locale": "xx"}, {"doc_id": "gone", "grade": 7}])
    with pytest.raises(UserError, match=r"2 of 60 judgments .* broke a rule"):
        judged(tmp_path / "slipped", slipped, make_documents(), make_impressions(), make_settings(validation=LENIENT))


def test_columns_stored_as_another_type_are_read_as_the_contracts_and_reported(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    impressions = make_impressions()
    place = impressions.schema.get_field_index("position")
    wide = impressions.set_column(place, "position", impressions["position"].cast(pa.int64()))
    summary = run(tmp_path, wide, make_documents(), make_settings())
    assert contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS).num_rows == len(impressions)
    found = {check["dataset"]: check for check in summary["profile"] if check["rule"] == "columns of another type"}
    assert found["impressions"]["finding"] == "position is int64 and is read as int32"
    assert {dataset: check["passed"] for dataset, check in found.items()} == {
        "documents": True,
        "impressions": False,
        "judgments": True,
    }


def test_not_a_number_is_found_even_where_parquets_statistics_hide_it(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    nan = float("nan")
    table = changed(make_impressions(), [{"score": nan}, {"clicked": True, "dwell_seconds": nan}])
    run(tmp_path, table, make_documents(), make_settings())
    found = [line["reason"] for line in quarantined(tmp_path / "out", "impressions")]
    assert sorted(found) == ["dwell_seconds is negative or not finite", "score is outside 0 to 3"]


def test_of_repeated_rows_one_is_kept(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    impressions, documents = make_impressions(), make_documents()
    run(
        tmp_path,
        pa.concat_tables([impressions, impressions[:7]]),
        pa.concat_tables([documents, changed(documents[:1], [{"title": "another"}]).cast(documents.schema)]),
        make_settings(validation=LENIENT),
    )
    kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
    assert sorted(kept.to_pylist(), key=repr) == sorted(impressions.to_pylist(), key=repr)
    reasons = [line["reason"] for line in contracts.read(tmp_path / "out/quarantine", contracts.QUARANTINE).to_pylist()]
    assert sorted(reasons) == ["doc_id is repeated"] + ["query_id, doc_id and position are repeated"] * 7


@settings(max_examples=examples(6), phases=[Phase.generate])
@given(changes=st.lists(st.sampled_from([{}, *(change for change, _ in BAD_IMPRESSIONS)]), max_size=20))
def test_rows_in_are_rows_kept_and_rows_quarantined(
    changes: list[dict[str, Any]],
    make_impressions: Make,
    make_documents: Make,
    make_settings: MakeSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("validate")
    table = changed(make_impressions(searches=10), changes)
    summary = run(folder, table, make_documents(), make_settings(validation=LENIENT))
    kept = contracts.read(folder / "out/impressions", contracts.IMPRESSIONS)
    assert kept.num_rows == 50 - sum(bool(change) for change in changes)
    assert kept.num_rows + len(quarantined(folder / "out", "impressions")) == 50
    assert summary["datasets"]["impressions"] == {
        "rows_in": 50,
        "rows_kept": kept.num_rows,
        "rows_quarantined": 50 - kept.num_rows,
    }


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            {"max_quarantined_share": 0.005, "min_impressions": 1},
            [
                "16 of 1,500 impressions (1.1%)",
                "max_quarantined_share allows at most 0.005",
                "'dwell_seconds is negative or not finite' (3 rows)",
            ],
        ),
        (
            {"max_quarantined_share": 1.0, "min_impressions": 1485},
            ["1,484 of 1,500 impressions are left", "min_impressions asks for at least 1485"],
        ),
    ],
)
def test_a_hard_failure_names_rule_counts_and_quarantine(
    limits: dict[str, float],
    words: list[str],
    make_impressions: Make,
    make_documents: Make,
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    table = changed(make_impressions(), [change for change, _ in BAD_IMPRESSIONS])
    with pytest.raises(UserError) as raised:
        run(tmp_path, table, make_documents(), make_settings(validation=limits))
    assert all(word in str(raised.value) for word in [*words, str(tmp_path / "out/quarantine")])
    assert len(quarantined(tmp_path / "out", "impressions")) == len(BAD_IMPRESSIONS)
    assert "failed" in (tmp_path / "out/data_docs/index.html").read_text()


def test_limits_that_are_just_met_pass(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    bad = len(BAD_IMPRESSIONS)
    table = changed(make_impressions(), [change for change, _ in BAD_IMPRESSIONS])
    limits = {"max_quarantined_share": bad / 1500, "min_impressions": 1500 - bad}
    run(tmp_path, table, make_documents(), make_settings(validation=limits))


def test_data_docs_link_to_each_other_and_to_nothing_remote(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(tmp_path, make_impressions(), make_documents(), make_settings())
    docs = tmp_path / "out/data_docs"
    suites = {"documents.html", "impressions.html", "judgments.html"}
    assert {page.name for page in docs.iterdir()} == {*suites, "index.html"}
    for page in docs.iterdir():
        html = page.read_text()
        assert not re.search(r"<(script|link|img)\b|src=|@import", html)
        local = [href for href in re.findall(r'href="([^"#]+)"', html) if not href.startswith("https://")]
        assert local
        assert all((docs / href).is_file() for href in local)
    html = (docs / "impressions.html").read_text()
    assert "locale is not in the catalogue" in html
    assert "warning: 0 of 1,500" in html


def test_the_same_input_gives_the_same_bytes(
    make_impressions: Make, make_documents: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = changed(make_impressions(), [change for change, _ in BAD_IMPRESSIONS])
    written = []
    for name in ("one", "two"):
        run(tmp_path / name, table, make_documents(), make_settings())
        out = tmp_path / name / "out"
        written.append({file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()})
    assert written[0] == written[1]


def test_a_missing_window_is_explained(make_documents: Make, make_settings: MakeSettings, tmp_path: Path) -> None:
    contracts.write(make_documents(), tmp_path / "documents", contracts.DOCUMENTS)
    window, documents, judgments, profiles = (tmp_path / name for name in INPUTS)
    with pytest.raises(UserError, match=r"window/impressions: no Parquet files"):
        validation.validate(window, documents, judgments, profiles, tmp_path / "out", make_settings())
    assert not (tmp_path / "out").exists()
