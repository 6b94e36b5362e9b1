"""The test sets: whatever one of them asks is held out of what a model may learn from."""

from __future__ import annotations

from pathlib import Path

import evaluation_world as world
import ibis
import pyarrow as pa
import pytest

from serm import engine as engines
from serm.errors import UserError
from serm.pairs import test_sets as sets
from serm.settings import EngineSettings


def test_a_query_of_any_of_the_four_datasets_is_held_out_however_it_is_spelled(tmp_path: Path) -> None:
    for number, path in enumerate(sets.datasets(tmp_path).values()):
        world.judge(path, [(f"query {number}", "de", "d", 0)])
    asked = [f"QUERY  {number}" for number in range(5)]
    pairs = pa.table({"query": asked, "doc_id": ["d"] * 5})
    with engines.connect(EngineSettings()) as engine:
        alike = engine.to_pyarrow(sets.asked_alike(engine, ibis.memtable(pairs), sets.read(engine, tmp_path)))
    assert sorted(alike["query"].to_pylist()) == asked[:4]


def test_a_missing_test_set_is_named(tmp_path: Path) -> None:
    (_, missing), *others = sets.datasets(tmp_path).items()
    for path in dict(others).values():
        world.judge(path, [("q", "de", "d", 0)])
    with engines.connect(EngineSettings()) as engine, pytest.raises(UserError, match=str(missing)):
        sets.read(engine, tmp_path)
