"""The frozen test set is renewed: both sets are measured side by side once, then the new one replaces the old."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import evaluation_world as world
import pytest
from typer.testing import CliRunner

from serm import contracts, layout
from serm import engine as engines
from serm.cli import app
from serm.evaluation import makers
from serm.pairs import test_sets
from serm.pairs.test_sets import NEXT, POOL, SERVED, datasets
from serm.pooling import frozen
from serm.settings import EngineSettings
from serm.workspace.progress import Progress

NEW = [("new lamp", "en", "d1", 3), ("new lamp", "en", "d2", 0), ("new rug", "en", "d3", 2)]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A workspace after cycle 2 whose last window shows d1 for 'new lamp'."""
    for (name, _), path in datasets(tmp_path / layout.TESTS).items():
        world.judge(path, [(f"{name} query", "en", "d1", 1)])
    world.judge(tmp_path / layout.JUDGMENTS, [("learnt", "en", "d1", 1)])
    world.searches(tmp_path / layout.REFERENCE, [("New  Lamp", "en")])
    rows = contracts.read(tmp_path / layout.REFERENCE, contracts.IMPRESSIONS).to_pylist()
    shown = contracts.IMPRESSIONS.empty_table().from_pylist([{**row, "doc_id": "d1"} for row in rows])
    contracts.write(shown.cast(contracts.IMPRESSIONS), tmp_path / layout.REFERENCE, contracts.IMPRESSIONS)
    (tmp_path / layout.DVC).mkdir()
    (tmp_path / layout.PARAMS).write_text('cycle: {start: "2026-01-01T00:00:00Z", end: "2026-02-01T00:00:00Z"}\n')
    Progress("cycle-0002", "kept").write(tmp_path)
    return tmp_path


def propose(shop: Path, rows: Sequence[world.Judged]) -> str:
    """Give the judgments as a file; return what the command line says."""
    file = shop / "new.jsonl"
    file.write_text("".join(json.dumps({"query": q, "docid": d, "rating": g}) + "\n" for q, _, d, g in rows))
    arguments = ["tests", "renew", str(file), "--locale=en", f"--workspace={shop}", "--json"]
    done = CliRunner().invoke(app, arguments)
    return done.stdout if done.exit_code == 0 else str(done.exception)


def evaluated(shop: Path, cycle: int, *names: str) -> None:
    """Let a cycle have measured the test sets ``names``, and the state be past it."""
    path = shop / layout.HISTORY / f"cycle-{cycle:04d}" / "evaluate.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"sets": {name: {} for name in names}}))
    Progress(f"cycle-{cycle:04d}", "kept").write(shop)


def queries(shop: Path, name: str, documents: str = SERVED) -> set[str]:
    table = contracts.read(shop / layout.TESTS / name / documents, contracts.JUDGMENTS)
    return set(table["query"].to_pylist())


def test_a_new_frozen_set_lies_beside_the_old_one_until_a_cycle_has_measured_both(shop: Path) -> None:
    told = json.loads(propose(shop, NEW))
    assert (told["queries"], told["pairs"], told["served_pairs"]) == (2, 3, 2)  # d2 was not shown for 'new lamp'
    assert queries(shop, "frozen") == {"frozen query"}
    with engines.connect(EngineSettings()) as engine:
        held_out = engine.to_pyarrow(test_sets.held_out(engine, shop / layout.TESTS))["query"].to_pylist()
    assert {"new lamp", "new rug", "frozen query"} <= set(held_out)
    assert frozen.settle(shop) == {}
    evaluated(shop, 3)  # nothing drifted, or it was read before
    assert frozen.settle(shop) == {}
    evaluated(shop, 4, "frozen", "rolling", NEXT)
    assert frozen.settle(shop) == {"frozen_version": 2, "since": "cycle-0005"}
    assert queries(shop, "frozen", POOL) == {"new lamp", "new rug"}
    assert not (shop / layout.TESTS / NEXT).exists()
    assert makers.counts(shop / layout.TESTS)["frozen"]["version"]["measured_beside_the_last"] == "cycle-0004"
    assert frozen.settle(shop) == {}


def test_a_set_proposed_anew_waits_for_a_cycle_of_its_own(shop: Path) -> None:
    propose(shop, NEW)
    evaluated(shop, 3, "frozen", "rolling", NEXT)
    propose(shop, [("another", "en", "d1", 1)])
    assert frozen.settle(shop) == {}
    assert queries(shop, NEXT) == {"another"}


def test_what_models_learnt_from_or_the_rolling_set_asks_is_no_frozen_query(shop: Path) -> None:
    told = json.loads(propose(shop, [*NEW, ("LEARNT", "en", "d1", 3), ("rolling  query", "en", "d1", 3)]))
    assert (told["learnt_queries_left_out"], told["rolling_queries_left_out"]) == (1, 1)
    assert queries(shop, NEXT) == {"new lamp", "new rug"}
    assert "none of the 1 queries can be tested on" in propose(shop, [("Learnt", "en", "d1", 3)])
