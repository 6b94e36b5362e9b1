"""The statistics of click models are the same on DuckDB and on Spark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serm import clicks, contracts
from serm import engine as engines
from serm.clicks.pages import Pages, aggregate, read
from serm.settings import ClickSettings, EngineSettings

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'serm[spark]'")


def test_both_engines_aggregate_the_same_pages(make_impressions: Callable[..., pa.Table], tmp_path: Path) -> None:
    log = make_impressions(searches=300, queries=5)
    gaps = np.ones(len(log), bool)
    gaps[7::31] = False
    contracts.write(log.filter(pa.array(gaps)), tmp_path / "log", contracts.IMPRESSIONS)
    read_by: dict[str, tuple[Pages, np.ndarray, np.ndarray]] = {}
    fitted: dict[str, clicks.Estimates] = {}
    for kind in ("duckdb", "spark"):
        with engines.connect(EngineSettings(kind=kind, threads=1, memory_gb=1)) as engine:
            impressions = contracts.scan(engine, tmp_path / "log", contracts.IMPRESSIONS)
            counts = engines.hold(engine, "counts", clicks.count(impressions))
            numbered = engines.hold(engine, "page_rows", clicks.number(impressions, counts))
            read_by[kind] = read(aggregate(numbered), 1, 5)
            # Two parts, so that a part is read as well.
            parts = ClickSettings(max_impressions=1000)
            fitted[kind] = clicks.fit(numbered, clicks.ClickCounts.read(counts), parts)
    (one, held_out, log_pair), (two, *others) = read_by["duckdb"], read_by["spark"]
    for name in ("pair", "position", "clicked", "start", "seen"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert (held_out == others[0]).all()
    assert (log_pair == others[1]).all()
    assert 0 < held_out.sum() < len(held_out)
    assert fitted["duckdb"].summary == fitted["spark"].summary
    assert (fitted["duckdb"].relevance == fitted["spark"].relevance).all()
