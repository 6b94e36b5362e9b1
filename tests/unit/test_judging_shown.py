"""The pairs that users were shown: which are labelled, by what users did, and how common they make a grade."""

from __future__ import annotations

import json
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from judging_world import NAMES, QUERIES, build, run, seed_rows, write_clicks, write_judgments

from serm import contracts
from serm.judging import shown
from serm.settings import JudgingSettings


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Users searched the nine seed queries and one of the mined ones often, the two others never."""
    made = build(tmp_path, monkeypatch)
    write_clicks(made, [*QUERIES[:9], "green"], searches=60)
    return made


def test_shown_pairs_are_labelled_with_a_distribution(world: Path) -> None:
    out = run(world)
    labels, seen = (contracts.read(out / name, contracts.JUDGMENTS) for name in ("judgments", "shown"))
    kept = {(row["query"], row["doc_id"]) for row in labels.to_pylist()}
    rows = {(row["query"], row["doc_id"]): row for row in seen.to_pylist()}
    assert rows.keys() == {("green", f"en-{n}") for n in range(len(NAMES))} - kept  # the others are seed judgments
    assert rows
    for row in [*rows.values(), *labels.to_pylist()]:
        assert sum(row["distribution"]) == pytest.approx(1)
        assert row["grade"] == np.argmax(row["distribution"])
        assert row["agreement"] == max(row["distribution"])
    assert {(row["source"], row["cycle"], row["rationale"]) for row in rows.values()} == {("shown", 2, None)}
    assert contracts.read(run(world, agreement="dawid-skene") / "shown", contracts.JUDGMENTS).num_rows == 0


def test_a_held_batch_labels_no_shown_pair(world: Path) -> None:
    out = run(world, trust={"min_gold_pairs": 1, "min_kappa": 1.0, "max_over_rated": 0.0})
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows == 0
    assert contracts.read(out / "shown", contracts.JUDGMENTS).num_rows == 0


def estimates(**changes: object) -> pa.Table:
    row = {"query": "q", "locale": "en", "doc_id": "d", "impressions": 3, "clicks": 1, "satisfied": 0, "disliked": 0}
    row |= {"examined": 2.0, "dwells": 0, "log_dwell": 0.0, "tested": False, "settings": "{}"}
    row |= dict.fromkeys(("attractiveness", "standard_error", "relevance", "relevance_error"), 0.5)
    rows = [row | {"query": f"q{n}", "doc_id": f"d{m}"} for n in range(4) for m in range(n + 1)]
    rows[0] |= changes
    return pa.Table.from_pylist(rows, contracts.CLICK_ESTIMATES)


def read_shown(table: pa.Table, judged: pa.Table, documents: list[str], **judging: object) -> tuple[list[str], int]:
    absent = {name: None for name in contracts.DOCUMENTS.names}
    rows = [absent | {"doc_id": d, "locale": "en", "title": "", "body": ""} for d in documents]
    catalogue = ibis.memtable(pa.Table.from_pylist(rows).select(["doc_id", "locale"]))
    pairs, count = shown.read(
        ibis.memtable(table),
        ibis.memtable(judged),
        catalogue,
        JudgingSettings(**judging),
    )
    keys = [f"{row['query']} {row['doc_id']}" for row in pairs.to_pyarrow().to_pylist()]
    return keys, count.to_pyarrow()["pairs"][0].as_py() or 0


def judged(source: str) -> pa.Table:
    rows = [{"query": "q3", "locale": "en", "doc_id": "d3", "grade": 1, "source": source, "cycle": 0}]
    return pa.Table.from_pylist(rows, contracts.JUDGMENTS)


def test_only_pairs_that_users_know_and_nobody_judged_are_labelled_by_users() -> None:
    documents = ["d0", "d1", "d2", "d3"]
    everything, _ = read_shown(estimates(), judged("shown"), documents)
    assert len(everything) == 10
    for changes in ({"impressions": 2}, {"tested": True}):
        assert read_shown(estimates(**changes), judged("shown"), documents)[0] == everything[1:]
    for source in ("seed", "human", "panel"):
        assert read_shown(estimates(), judged(source), documents)[0] == everything[:-1]
    assert read_shown(estimates(), judged("shown"), documents[1:])[0] == [key for key in everything if "d0" not in key]


@pytest.mark.parametrize("most", [0, 1, 4, 7, 9])
def test_whole_queries_are_drawn_where_there_are_too_many(most: int) -> None:
    keys, count = read_shown(estimates(), judged("shown"), ["d0", "d1", "d2", "d3"], max_shown=max(most, 1))
    assert count == 10
    assert len(keys) <= max(most, 1)
    queries = {key.split()[0] for key in keys}
    assert len(keys) == sum(int(query[1]) + 1 for query in queries)


def test_the_seed_of_another_mix_gives_the_same_users_and_another_prior(world: Path) -> None:
    first = run(world)
    before = json.loads((first / "annotate.json").read_text())["posterior"]
    assert before["users"] == "used"
    assert before["held_out"]["posterior"]["nll"] <= before["held_out"]["text"]["nll"]
    write_judgments(world, [row for row in seed_rows() if row["query"] in QUERIES[:4]])
    after = json.loads((run(world) / "annotate.json").read_text())["posterior"]
    assert after["users"].startswith("left out: users of the window saw")


def test_what_users_did_with_shown_pairs_tells_how_common_a_grade_is(world: Path) -> None:
    path = world / "mined" / "click_estimates"

    def without_grade_0() -> float:
        summary = json.loads((run(world) / "annotate.json").read_text())
        return 1 - float(summary["posterior"]["prior"]["shown"][0])

    before, table = without_grade_0(), contracts.read(path, contracts.CLICK_ESTIMATES)
    for name in ("clicks", "dwells", "log_dwell"):  # of the window's own query nobody clicks anything
        kept = pc.if_else(pc.equal(table["query"], "green"), pa.scalar(0, table.schema.field(name).type), table[name])
        table = table.set_column(table.column_names.index(name), table.schema.field(name), kept)
    contracts.write(table, path, contracts.CLICK_ESTIMATES)
    assert without_grade_0() < before - 0.02
