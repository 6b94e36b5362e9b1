"""A person's latest word on a pair stands, at whichever place an earlier one would come back from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner
from workspace_world import judgments

from serm import contracts, layout
from serm.cli import app
from serm.errors import UserError
from serm.pairs.test_sets import ANNOTATED, DRAWN, PEOPLE, POOL, SERVED, datasets
from serm.workspace.mending import correct, retire
from serm.workspace.merge import keep

LAMP = ("lamp", "en", "d1")


def rows(path: Path) -> list[tuple[Any, ...]]:
    table = contracts.read(path, contracts.JUDGMENTS)
    return [(row["query"], row["doc_id"], row["grade"], row["source"]) for row in table.to_pylist()]


def write(path: Path, *of: tuple[str, str, int], source: str = "human", cycle: int = 1) -> None:
    contracts.write(judgments(of, source, cycle), path, contracts.JUDGMENTS)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A pair that a panel judged in cycle 1, and a person on `serm review` after it."""
    write(tmp_path / layout.JUDGMENTS, ("lamp", "d1", 1), ("rug", "d2", 2), source="panel")
    write(tmp_path / layout.REVIEWED, ("lamp", "d1", 0))
    (tmp_path / layout.REVIEWED / "answers.jsonl").write_text("{}\n")
    (tmp_path / ".serm").mkdir()
    return tmp_path / layout.JUDGMENTS


def advanced(state: Path) -> None:
    """What `serm advance` merges, twice."""
    root = state.parents[1]
    for _ in range(2):
        keep(judgments([("lamp", "d1", 1)], "panel", 1), state)
        keep(contracts.read(root / layout.REVIEWED, contracts.JUDGMENTS), state)


def test_a_correction_is_not_undone_by_an_earlier_review_of_its_cycle(state: Path) -> None:
    assert correct(state, LAMP, 3, "Ada", "it is one", 1) == 1
    advanced(state)
    assert ("lamp", "d1", 3, "human") in rows(state)
    assert (state.parents[1] / layout.REVIEWED / "answers.jsonl").exists()


def test_a_retired_pair_comes_back_by_a_persons_later_word_alone(state: Path) -> None:
    retire(state, LAMP, "Ada", "sold out")
    advanced(state)
    assert [row[0] for row in rows(state)] == ["rug"]
    assert correct(state, LAMP, 2, "Ada", "back", 1) is None
    advanced(state)
    assert ("lamp", "d1", 2, "human") in rows(state)


def test_a_review_after_a_correction_is_the_later_word(state: Path) -> None:
    correct(state, LAMP, 3, "Ada", "it is one", 1)
    write(state.parents[1] / layout.REVIEWED, ("lamp", "d1", 2))
    advanced(state)
    assert ("lamp", "d1", 2, "human") in rows(state)


def test_both_choices_of_a_frozen_sets_documents_are_mended(tmp_path: Path) -> None:
    places = datasets(tmp_path / layout.TESTS)
    write(places["frozen", SERVED], ("lamp", "d1", 1), cycle=0)
    write(places["frozen", POOL], ("lamp", "d1", 1), ("lamp", "d2", 1), cycle=0)
    assert correct(places["frozen", SERVED], LAMP, 3, "Ada", "it is one", 5) == 1
    assert correct(places["frozen", SERVED], ("lamp", "en", "d2"), 0, "Ada", "it is none", 5) == 1
    assert rows(places["frozen", SERVED]) == [("lamp", "d1", 3, "human")]
    assert rows(places["frozen", POOL]) == [("lamp", "d1", 3, "human"), ("lamp", "d2", 0, "human")]
    retire(places["frozen", POOL], LAMP, "Ada", "sold out")
    assert rows(places["frozen", SERVED]) == []
    assert not (tmp_path / layout.TESTS / "frozen" / "superseded").exists()
    assert len(rows(tmp_path / layout.SUPERSEDED)) == 3


def test_what_a_rolling_set_is_made_anew_from_is_mended_too(tmp_path: Path) -> None:
    tests = tmp_path / layout.TESTS
    for documents in (SERVED, POOL):
        write(datasets(tests)["rolling", documents], ("lamp", "d1", 1), ("lamp", "d2", 1), source="panel")
    write(tests / ANNOTATED / "judgments", ("lamp", "d1", 1), ("lamp", "d2", 1), source="panel")
    write(tests / PEOPLE, ("lamp", "d2", 2))
    write(tmp_path / layout.TEST_REVIEWED, ("lamp", "d2", 2))
    (tmp_path / ".serm").mkdir()
    drawn = [{"query": "lamp", "locale": "en", "doc_id": doc, "served": True, "cycle": 1} for doc in ("d1", "d2", "d3")]
    contracts.write(pa.Table.from_pylist(drawn, contracts.DRAWN), tests / DRAWN, contracts.DRAWN)
    rolling = datasets(tests)["rolling", SERVED]
    correct(rolling, LAMP, 3, "Ada", "it is one", 4)
    assert ("lamp", "d1", 3, "human") in rows(tests / PEOPLE)
    assert {row["cycle"] for row in contracts.read(rolling, contracts.JUDGMENTS).to_pylist()} == {1}
    retire(rolling, ("lamp", "en", "d2"), "Ada", "sold out")
    for path in (rolling, tests / PEOPLE, tests / ANNOTATED / "judgments", tmp_path / layout.TEST_REVIEWED):
        assert "d2" not in {row[1] for row in rows(path)}
    with pytest.raises(UserError, match="graded with `serm review --tests`"):
        correct(rolling, ("lamp", "en", "d3"), 3, "Ada", "it is one", 4)


def test_a_pair_that_was_not_judged_is_told_from_one_that_was(tmp_path: Path) -> None:
    write(tmp_path / "judged", ("lamp", "d1", 1))
    arguments = ["judgments", "correct", "--locale=en", f"--judgments={tmp_path / 'judged'}", "--by=Ada", "--why=so"]
    for query, told in (("lamp", "corrected"), ("lmap", "added: it was not judged")):
        done = CliRunner().invoke(app, [*arguments, query, "d1", "--grade=2", "--json"])
        assert json.loads(done.stdout)["pair"] == told
