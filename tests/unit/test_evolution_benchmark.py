"""The statistics behind benchmarks/evolution.py: what a comparison keeps of a world, and what worlds make together."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def pooling() -> ModuleType:
    """``benchmarks/evolution_pooled.py``, which is in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return import_module("evolution_pooled")


def _compared(pooling: ModuleType, gains: np.ndarray, weights: np.ndarray | None = None) -> str:
    """What a world keeps of SERM's gains [n] over replay on a set that users ask next, in the slice ``weighed``."""
    replay = np.full(len(gains), 0.5)
    slices = {"all": np.ones(len(gains)), "weighed": np.ones(len(gains)) if weights is None else weights}
    values = {"SERM": {"NDCG@10": replay + gains}, "replay": {"NDCG@10": replay}}
    found: dict[str, str] = pooling.differences(pooling.Measured(pooling.ASKED, slices, values))
    return found["SERM over replay | NDCG@10 | weighed"]


def _pooled(pooling: ModuleType, told: list[str], splits: list[int] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = pooling.pooled(told, splits or [1] * len(told), pooling.SHARED)
    return found


def test_one_world_has_the_p_and_interval_of_a_paired_z_test(pooling: ModuleType) -> None:
    gains = np.random.default_rng(0).normal(0.02, 0.2, 900)
    error = stats.sem(gains)
    found = _pooled(pooling, [_compared(pooling, gains)])
    assert found["difference"] == pytest.approx(gains.mean(), abs=1e-4)
    assert (found["low"], found["high"]) == pytest.approx(stats.norm.interval(0.95, gains.mean(), error), abs=1e-4)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(gains.mean()) / error), rel=0.05)
    assert found["queries"] == 900


def test_the_same_queries_in_two_worlds_are_no_more_evidence_than_in_one(pooling: ModuleType) -> None:
    told = _compared(pooling, np.random.default_rng(1).normal(0.02, 0.2, 400))
    alone, twice = _pooled(pooling, [told]), _pooled(pooling, [told, told])
    assert {name: twice[name] for name in ("difference", "low", "high", "p")} == {
        name: alone[name] for name in ("difference", "low", "high", "p")
    }
    assert (twice["seeds"], twice["deviation_of_seeds"]) == (alone["seeds"] * 2, 0)


def test_worlds_whose_test_queries_were_drawn_anew_are_more_evidence_than_one_and_less_than_if_none_were_shared(
    pooling: ModuleType,
) -> None:
    """A fifth of the queries are in both and gain the same there: the interval holds the true gain as it says."""
    draw, held, widths = np.random.default_rng(5), [], []
    for _ in range(2000):
        shared = draw.normal(0.02, 0.2, 60)
        told = [_compared(pooling, np.append(shared, draw.normal(0.02, 0.2, 240))) for _ in range(2)]
        found = _pooled(pooling, told, [1, 2])
        held.append(found["low"] <= 0.02 <= found["high"])
        widths.append((found["high"] - found["low"]) / (2 * 1.96 * 0.2 / np.sqrt(600)))
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    assert np.mean(widths) == pytest.approx(np.sqrt(1.2), rel=0.01)


def test_a_query_counts_alike_whichever_world_it_is_of(pooling: ModuleType) -> None:
    few, many = np.full(100, 0.1), np.full(300, 0.02)
    assert _pooled(pooling, [_compared(pooling, few), _compared(pooling, many)])["difference"] == 0.04


def test_no_difference_at_all_is_p_1_and_a_sure_one_p_0(pooling: ModuleType) -> None:
    assert _pooled(pooling, [_compared(pooling, np.zeros(50))])["p"] == 1
    assert _pooled(pooling, [_compared(pooling, np.random.default_rng(2).normal(0.5, 0.01, 5000))])["p"] < 1e-300


def test_a_query_that_a_measure_is_not_defined_on_or_that_weighs_nothing_is_left_out(pooling: ModuleType) -> None:
    gains = np.array([0.1, 0.3, np.nan, 9.0])
    n, mean, deviation = map(float, _compared(pooling, gains, np.array([1.0, 1, 1, 0])).split())
    assert (n, mean, deviation) == pytest.approx((2, 0.2, np.std([0.1, 0.3], ddof=1)), abs=1e-6)


def test_only_what_queries_weigh_beside_each_other_matters(pooling: ModuleType) -> None:
    draw = np.random.default_rng(3)
    gains, weights = draw.normal(0, 0.2, 200), draw.uniform(0.1, 5, 200)
    assert _compared(pooling, gains, weights) == _compared(pooling, gains, weights * 64)
    assert _compared(pooling, gains, np.full(200, 7.0)) == _compared(pooling, gains)


def test_an_interval_of_weighed_queries_holds_the_true_gain_as_often_as_it_says(pooling: ModuleType) -> None:
    """Zipf's weights, as searches have: half of all weight is on 30 of 1,500 queries."""
    draw, weights = np.random.default_rng(4), 1 / np.arange(1, 1501)
    found = [_pooled(pooling, [_compared(pooling, draw.normal(0.03, 0.2, 1500), weights)]) for _ in range(2000)]
    assert np.mean([one["low"] <= 0.03 <= one["high"] for one in found]) == pytest.approx(0.95, abs=0.015)


def test_the_summary_that_is_committed_is_the_one_of_the_worlds_that_are(pooling: ModuleType) -> None:
    worlds = {file.stem: json.loads(file.read_text()) for file in (RESULTS / "evolution").glob("*.json")}
    told = json.loads((RESULTS / "evolution.json").read_text())["summary"]
    assert {*told} == {"confirmed", "explored", "together"}
    for name, explored in (("confirmed", False), ("explored", True)):
        of = {stem: world for stem, world in worlds.items() if (world["seed"] >= 100) == explored}
        assert told[name] == pooling.headline(pooling.summary(dict(sorted(of.items()))))
    assert set(told["together"]) >= {
        f"pool, three fresh splits seed judgments, cycle {cycle}, rolling served: "
        "SERM's challenger over its champion, NDCG@10"
        for cycle in (1, 2, 3)
    }
