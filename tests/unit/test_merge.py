"""Which judgment of a pair stands, and what becomes of the others."""

from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from typer.testing import CliRunner
from workspace_world import judgments

from serm import contracts
from serm import engine as engines
from serm.cli import app
from serm.errors import UserError
from serm.settings import EngineSettings
from serm.workspace.mending import retire
from serm.workspace.merge import keep, merged

PAIRS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 3)), max_size=4)
TABLES = st.lists(st.tuples(st.sampled_from(["human", "seed", "panel", "shown"]), st.integers(0, 3), PAIRS), max_size=5)


def _tables(drawn):
    """One table a drawn batch: each pair once, as the datasets have it."""
    return [judgments({(q, d): (q, d, g) for q, d, g in rows}.values(), *batch) for *batch, rows in drawn]


@given(TABLES, st.randoms(use_true_random=False))
def test_the_best_kinds_newest_judgment_stands_in_whichever_order_they_come(drawn, random):
    tables = _tables(drawn)
    random.shuffle(tables)
    state = contracts.JUDGMENTS.empty_table()
    for table in tables:
        state = merged(state, table)
    given_rows = [row for table in tables for row in table.to_pylist()]
    stands = {(row["query"], row["doc_id"]): row for row in state.to_pylist()}
    assert len(stands) == state.num_rows
    assert stands.keys() == {(row["query"], row["doc_id"]) for row in given_rows}
    for key, row in stands.items():
        rivals = [one for one in given_rows if (one["query"], one["doc_id"]) == key]
        kind = next(
            kind for kind in ("human", "seed", "panel", "shown") if any(one["source"] == kind for one in rivals)
        )
        newest = max(one["cycle"] for one in rivals if one["source"] == kind)
        assert (row["source"], row["cycle"]) == (kind, newest)
        assert row in rivals


@given(TABLES)
def test_a_merge_again_changes_nothing(drawn):
    state = contracts.JUDGMENTS.empty_table()
    for table in _tables(drawn):
        state = merged(state, table)
        assert merged(state, table).equals(state)


def test_a_distribution_comes_along_and_goes_with_its_judgment(tmp_path):
    state = tmp_path / "state" / "judgments"
    soft = pa.array([[0.1, 0.2, 0.6, 0.1]], contracts.JUDGMENTS.field("distribution").type)
    place = contracts.JUDGMENTS.names.index("distribution")
    shown = judgments([("fox", "d", 2)], "shown", 1).set_column(place, "distribution", soft)
    assert keep(shown, state)["distribution"].to_pylist() == soft.to_pylist()
    assert keep(judgments([("fox", "d", 3)], "panel", 1), state)["distribution"].to_pylist() == [None]
    trace = contracts.read(tmp_path / "state" / "superseded", contracts.JUDGMENTS)
    assert trace.select(["source", "distribution"]).to_pylist() == [
        {"source": "shown", "distribution": [0.1, 0.2, 0.6, 0.1]}
    ]


def test_judgments_from_before_distributions_are_read(tmp_path):
    table = judgments([("fox", "d", 2)])
    (tmp_path / "old").mkdir()
    pq.write_table(table.drop_columns(["distribution"]), tmp_path / "old" / "part-0.parquet")
    assert contracts.read(tmp_path / "old", contracts.JUDGMENTS).equals(table)
    with engines.connect(EngineSettings()) as engine:
        scanned = contracts.scan(engine, tmp_path / "old", contracts.JUDGMENTS)
        assert engine.to_pyarrow(scanned)["distribution"].to_pylist() == [None]


def test_a_panel_label_never_replaces_an_earlier_judgment():
    earlier = judgments([("cat", "d", 2)])
    new = judgments([("cat", "d", 0), ("cat", "e", 1)], "panel", 3)
    both = merged(earlier, new)
    assert both.select(["query", "doc_id", "grade", "source"]).to_pylist() == [
        {"query": "cat", "doc_id": "d", "grade": 2, "source": "seed"},
        {"query": "cat", "doc_id": "e", "grade": 1, "source": "panel"},
    ]
    assert merged(both, new).equals(both)


def test_what_no_longer_stands_is_kept_beside_the_judgments(tmp_path):
    state = tmp_path / "state" / "judgments"
    keep(judgments([("fox", "d", 3), ("fox", "e", 2)], "panel", 1), state)
    for _ in range(2):  # a second call, as after one that was cut short, adds nothing
        keep(judgments([("fox", "d", 0)], "human", 1), state)
    keep(judgments([("fox", "d", 1)], "human", 4), state)
    keep(judgments([("fox", "d", 2)], "human", 2), state)  # an older answer, imported late
    stands = contracts.read(state, contracts.JUDGMENTS).select(["doc_id", "grade", "source", "cycle"]).to_pylist()
    assert stands == [
        {"doc_id": "d", "grade": 1, "source": "human", "cycle": 4},
        {"doc_id": "e", "grade": 2, "source": "panel", "cycle": 1},
    ]
    trace = contracts.read(tmp_path / "state" / "superseded", contracts.JUDGMENTS)
    assert [(row["grade"], row["source"], row["cycle"]) for row in trace.to_pylist()] == [
        (0, "human", 1),
        (3, "panel", 1),
    ]


def test_a_label_is_mended_by_a_person_and_what_it_was_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "judgments"
    keep(judgments([("lamp", "d1", 0), ("rug", "d2", 1)], "seed", 0), path)
    pair = ["lamp", "d1", "--locale", "en", "--judgments", str(path), "--by", "Ada"]
    runner = CliRunner()
    done = runner.invoke(app, ["judgments", "correct", *pair, "--grade", "3", "--why", "it is a lamp"])
    assert done.exit_code == 0, done.output
    keep(judgments([("lamp", "d1", 1)], "panel", 7), path)  # no later panel overrules a person
    stands = {row["query"]: row for row in contracts.read(path, contracts.JUDGMENTS).to_pylist()}
    assert (stands["lamp"]["grade"], stands["lamp"]["source"]) == (3, "human")
    assert stands["lamp"]["rationale"] == "Ada: it is a lamp"
    kept = contracts.read(tmp_path / "superseded", contracts.JUDGMENTS).to_pylist()
    assert {(row["grade"], row["source"]) for row in kept} == {(0, "seed")}

    assert runner.invoke(app, ["judgments", "retire", *pair, "--why", "sold out"]).exit_code == 0
    assert contracts.read(path, contracts.JUDGMENTS)["query"].to_pylist() == ["rug"]
    kept = contracts.read(tmp_path / "superseded", contracts.JUDGMENTS).to_pylist()
    assert "retired by Ada: sold out" in {row["rationale"] for row in kept}
    with pytest.raises(UserError, match="no judgment of query 'lamp'"):
        retire(path, ("lamp", "en", "d1"), "Ada", "again")
