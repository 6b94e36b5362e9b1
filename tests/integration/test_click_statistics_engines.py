"""The statistics of click models are the same on DuckDB and on Spark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serm import clicks, contracts
from serm import engine as engines
from serm.settings import ClickSettings, EngineSettings

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'serm[spark]'")


def test_both_engines_give_the_same_estimates(make_impressions: Callable[..., pa.Table], tmp_path: Path) -> None:
    log = make_impressions(searches=300, queries=5)
    gaps = np.ones(len(log), bool)
    gaps[7::31] = False
    contracts.write(log.filter(pa.array(gaps)), tmp_path / "log", contracts.IMPRESSIONS)
    fitted: dict[str, clicks.Estimates] = {}
    for kind in ("duckdb", "spark"):
        with engines.connect(EngineSettings(kind=kind, threads=1, memory_gb=1)) as engine:
            impressions = contracts.scan(engine, tmp_path / "log", contracts.IMPRESSIONS)
            counts = engines.hold(engine, "counts", clicks.count(impressions))
            numbered = clicks.number(impressions, counts)
            fitted[kind] = clicks.fit(numbered, clicks.ClickCounts.read(counts), ClickSettings())
    one, two = fitted["duckdb"], fitted["spark"]
    assert one.summary["held_out"]["dbn"]["impressions"] > 100
    # Equal to the last bit: the pages came in the same order.
    assert one.summary == two.summary
    assert (one.relevance == two.relevance).all()
