"""Online metrics by user: their definitions on a log written by hand, and their uncertainty beside a peer library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tea_tasting as tt

from serm import contracts
from serm import engine as engines
from serm.rollout import look, metrics
from serm.rollout.estimates import estimate
from serm.settings import EngineSettings, RolloutSettings

START = datetime(2026, 3, 2, tzinfo=UTC)
ALL = RolloutSettings(
    primary=tuple(metrics.METRICS), guardrails={}, signals=(), winsorise=1, min_users=2, change_query_seconds=300
)


def search(
    user: str, minute: float, query: str, clicks: tuple[float, ...] = (), variant: str = "control", **row: Any
) -> list[dict[str, Any]]:
    """A page of two documents; ``clicks``: dwell seconds of the clicks, from the first position; -1 for none there."""
    time = START + timedelta(minutes=minute)
    dwell = (*clicks, -1, -1)[:2]
    return [
        {
            "event_time": time,
            "query_id": f"{user}-{minute}",
            "session_id": f"{user}-{time.date()}",
            "user_id": user,
            "locale": "en",
            "query": query,
            "doc_id": f"d{position}",
            "position": position,
            "clicked": seconds >= 0,
            "dwell_seconds": seconds if seconds >= 0 else None,
            "click_seconds": 4.0 * position if seconds >= 0 else None,
            "negative_feedback": False,
            "score": None,
            "model_version": None,
            "variant": variant,
        }
        | row
        for position, seconds in enumerate(dwell, 1)
    ]


def users_of(tmp_path: Path, rows: list[dict[str, Any]], stages: list[datetime], days: float, **change: Any) -> Any:
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
    settings = ALL.model_copy(update=change)
    with engines.connect(EngineSettings(threads=1, memory_gb=1)) as engine:
        impressions = contracts.scan(engine, tmp_path / "log", contracts.IMPRESSIONS)
        table = look.of_log(impressions, stages, START + timedelta(days=days), settings)
        return {row["user_id"]: row for row in table.to_pyarrow().to_pylist()}


def test_each_metric_counts_what_its_name_says(tmp_path: Path) -> None:
    rows = [
        *search("a", 0, "lamp"),  # changed within the session
        *search("a", 2, "desk lamp", (-1, 40)),  # satisfied, first click at 2
        *search("a", 30, "sofa", (5,)),  # clicked, not satisfied
        *search("a", 90, "table"),  # abandoned: the next query is too late to be a change
        *search("a", 100, "table", negative_feedback=True),  # the same query again is no change
        *search("a", 60 * 24 * 7, "chair", (31,), click_seconds=3600.0),
    ]
    rows[-1]["click_seconds"] = None
    user = users_of(tmp_path, rows, [START], 9)["a"]
    counted = ("searches", "with_click", "with_satisfied", "changed", "abandoned", "with_negative", "sessions")
    assert [user[name] for name in counted] == [6, 3, 2, 1, 2, 1, 2]
    assert user["first_click"] == pytest.approx(0.5 + 1 + 1)
    assert (user["click_seconds"], user["timed"]) == (8 + 4 + 300, 3)  # a wait of an hour counts as five minutes
    assert (user["observed_1"], user["returned_1"]) == (1, 1)
    assert (user["observed_7"], user["returned_7"]) == (1, 1)
    assert (user["observed_14"], user["returned_14"]) == (0, 0)


def test_users_count_in_the_step_at_which_they_were_first_seen_and_in_no_group_when_seen_in_both(
    tmp_path: Path,
) -> None:
    rows = [
        *search("early", 0, "lamp"),
        *search("early", 200, "lamp"),
        *search("late", 150, "lamp", variant="challenger"),
        *search("both", 10, "lamp"),
        *search("both", 170, "lamp", variant="challenger"),
        *search("neither", 10, "lamp", variant="champion"),
        *search("before", -10, "lamp"),
    ]
    users = users_of(tmp_path, rows, [START, START + timedelta(minutes=100)], 1)
    assert {name: (row["stage"], row["challenger"], row["crossed"]) for name, row in users.items()} == {
        "early": (0, False, False),
        "late": (1, True, False),
        "both": (0, True, True),
    }
    seen = look.read(
        tmp_path / "log",
        [START, START + timedelta(minutes=100)],
        START + timedelta(days=1),
        ALL,
        EngineSettings(threads=1, memory_gb=1),
    )
    assert (seen.users, seen.crossed) == ([(0, 1), (1, 0)], 1)


def test_a_user_of_many_searches_weighs_as_much_as_one_at_the_quantile(tmp_path: Path) -> None:
    rows = [row for n in range(99) for row in search(f"u{n}", n, "lamp")]
    rows += [
        row
        for n in range(200)
        for row in search("robot", 1000 + n, "lamp", (40,) if n % 2 else (), session_id=f"session-{n}")
    ]
    robot = users_of(tmp_path, rows, [START], 2, winsorise=0.98)["robot"]
    assert robot["searches"] == pytest.approx(1.0)
    assert robot["with_satisfied"] / robot["searches"] == pytest.approx(0.5)
    assert robot["sessions"] == pytest.approx(1.0)


def test_habits_are_read_from_the_days_before_the_start_only(tmp_path: Path) -> None:
    rows = [
        *search("a", 5, "lamp"),
        *search("a", -60, "lamp", (40,), variant="champion"),
        *search("a", -60 * 24 * 20, "lamp", (40,), variant="champion"),
        *search("new", 5, "lamp"),
    ]
    users = users_of(tmp_path, rows, [START], 1)
    assert [users["a"][f"before_{n}"] for n in ("searches", "with_click")] == [1, 1]
    assert users["new"]["before_searches"] == 0


def simulated(seed: int, users: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rate = random.beta(3, 5, users)
    counts = {name: random.poisson(4, users) + 1.0 for name in ("searches", "before_searches")}
    clicks = {
        f"{part}with_click": random.binomial(counts[f"{part}searches"].astype(int), rate).astype(float)
        for part in ("", "before_")
    }
    frame = pd.DataFrame({"variant": random.integers(0, 2, users), "stage": 0, "users": 1.0, **counts, **clicks})
    return frame


def rows_of(frame: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    ratio = metrics.METRICS[metric]
    names = [ratio.numerator, ratio.denominator, *(metrics.covariate(metric) or ())]
    rows = []
    for (stage, variant), part in frame.groupby(["stage", "variant"]):
        sums = {name: float(part[name].sum()) for name in names}
        products = {"*".join(sorted((a, b))): float((part[a] * part[b]).sum()) for a in names for b in names}
        rows.append({"stage": stage, "challenger": bool(variant), "n": len(part), **sums, **products})
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_a_ratio_with_habits_has_the_value_and_standard_error_that_tea_tasting_gives(seed: int) -> None:
    frame = simulated(seed, 4000)
    found = estimate(rows_of(frame, "click_through"), "click_through")
    metric = tt.RatioOfMeans(
        "with_click", "searches", numer_covariate="before_with_click", denom_covariate="before_searches", use_t=False
    )
    peer = tt.Experiment(metric=metric).analyze(frame)["metric"]
    assert found is not None
    assert found.difference == pytest.approx(peer.effect_size, abs=2e-4)
    assert found.difference / found.variance**0.5 == pytest.approx(peer.statistic, abs=0.02)
    assert found.explained > 0.1
    plain = estimate(
        rows_of(frame.assign(before_searches=0.0, before_with_click=0.0), "click_through"), "click_through"
    )
    without = tt.Experiment(metric=tt.RatioOfMeans("with_click", "searches", use_t=False)).analyze(frame)["metric"]
    assert plain is not None
    assert (plain.challenger, plain.control) == pytest.approx((without.treatment, without.control), rel=1e-12)
    assert plain.difference / plain.variance**0.5 == pytest.approx(without.statistic, rel=1e-9)
    assert plain.variance > found.variance


def test_the_ramps_steps_are_compared_within_themselves() -> None:
    """Simpson's paradox: a step in which both groups click more, and one group has more users, moves nothing."""
    frame = simulated(5, 6000)
    lively = frame[frame.variant == 1].assign(stage=1)
    lively = pd.concat([lively, lively.iloc[:300].assign(variant=0)])
    lively["with_click"] = lively["searches"]
    together = estimate(rows_of(pd.concat([frame, lively]), "click_through"), "click_through")
    alone = estimate(rows_of(frame, "click_through"), "click_through")
    assert together is not None
    assert alone is not None
    mixed = estimate(rows_of(pd.concat([frame, lively]).assign(stage=0), "click_through"), "click_through")
    assert mixed is not None
    assert abs(together.difference) < 0.02
    assert mixed.difference > 0.2


def test_a_metric_that_no_user_can_have_yet_is_not_estimated() -> None:
    row = {"stage": 0, "n": 10, "returned_7": 0.0, "observed_7": 0.0}
    products = {"observed_7*observed_7": 0.0, "observed_7*returned_7": 0.0, "returned_7*returned_7": 0.0}
    rows = [{**row, **products, "challenger": side} for side in (True, False)]
    assert estimate(rows, "retention_7") is None
    assert estimate([], "click_through") is None


def test_a_locale_with_enough_users_is_a_segment_of_its_own_and_all_of_them_make_the_whole(tmp_path: Path) -> None:
    rows = []
    for n in range(40):
        variant, locale = ("challenger", "control")[n % 2], ("de", "de", "de", "fr")[n % 4]
        clicks = (40.0,) if locale == "de" and n % 3 else ()
        rows += [{**row, "locale": locale} for row in search(f"u{n}", n, "lamp", clicks, variant)]
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
    settings = RolloutSettings(winsorise=1, min_users=10)
    seen = look.read(
        tmp_path / "log", [START], START + timedelta(days=1), settings, EngineSettings(threads=1, memory_gb=1)
    )
    assert seen.users == [(20, 20)]
    assert list(seen.segments) == ["locale de"]
    assert seen.segments["locale de"]["satisfied_clicks"].users == (20, 10)
    whole, part = seen.estimates["satisfied_clicks"], seen.segments["locale de"]["satisfied_clicks"]
    assert whole.challenger * 20 == pytest.approx(part.challenger * 20)
    assert whole.control * 20 == pytest.approx(part.control * 10)


def test_queries_are_head_torso_tail_or_new_by_what_was_searched_for_before_the_start(tmp_path: Path) -> None:
    asked = {"lamp": 4, "sofa": 4, "desk": 2, "rug": 1, "vase": 1}  # 12 searches: a third is 4
    rows = [
        row
        for query, times in asked.items()
        for n in range(times)
        for row in search(f"{query}{n}", -60 - n, query, variant="champion")
    ]
    for n, query in enumerate([*asked, "bolt"] * 2):
        variant = ("challenger", "control")[n // 6]
        clicks = (40.0,) if variant == "challenger" or query != "desk" else ()
        rows += search(f"u{n}", n, query, clicks, variant)
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
    seen = look.read(
        tmp_path / "log",
        [START],
        START + timedelta(days=1),
        RolloutSettings(winsorise=1, min_users=1),
        EngineSettings(threads=1, memory_gb=1),
    )
    counted = {name: one["click_through"].users for name, one in seen.segments.items() if "click_through" in one}
    assert seen.users == [(6, 6)]
    assert counted == {"tail queries": (3, 3)}
    assert sorted(seen.segments) == ["head queries", "new queries", "tail queries", "torso queries"]
    assert seen.segments["tail queries"]["click_through"].difference == pytest.approx(1 / 3)


def test_a_user_who_crossed_between_two_kinds_of_query_is_in_no_kind_and_each_one_has_the_users_step(
    tmp_path: Path,
) -> None:
    rows = [row for n in range(4) for row in search(f"before{n}", -60 - n, "lamp", variant="champion")]
    for n in range(8):
        variant = ("challenger", "control")[n % 2]
        rows += [*search(f"u{n}", 1, "lamp", (), variant), *search(f"u{n}", 120, "bolt", (), variant)]
    for n in range(5):
        rows += [*search(f"crossed{n}", 1, "lamp", (), "challenger"), *search(f"crossed{n}", 120, "bolt", ())]
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
    seen = look.read(
        tmp_path / "log",
        [START, START + timedelta(hours=1)],  # the second query comes in the second step
        START + timedelta(days=1),
        RolloutSettings(winsorise=1, min_users=1),
        EngineSettings(threads=1, memory_gb=1),
    )
    assert (seen.crossed, seen.users) == (5, [(4, 4), (0, 0)])
    assert {name: one["click_through"].users for name, one in seen.segments.items()} == {
        "head queries": (4, 4),
        "new queries": (4, 4),
    }
    with engines.connect(EngineSettings(threads=1, memory_gb=1)) as engine:
        impressions = contracts.scan(engine, tmp_path / "log", contracts.IMPRESSIONS)
        stages = [START, START + timedelta(hours=1)]
        searches = look.searches_of(impressions, stages, START + timedelta(days=1), ALL)
        kinds = metrics.with_traffic(searches, START, ALL.before_days)
        users = metrics.by_user(kinds, stages, START + timedelta(days=1), 1.0, ALL.before_days, ("traffic",))
        assert {row["stage"] for row in users.to_pyarrow().to_pylist()} == {0}
