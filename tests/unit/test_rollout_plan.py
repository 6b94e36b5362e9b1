"""What a rollout could find, before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serm import contracts
from serm.errors import UserError
from serm.rollout.estimates import Estimate
from serm.rollout.plan import plan, planned_for, schedule, tau, told, users_for
from serm.settings import EngineSettings, RolloutSettings

ENGINE = EngineSettings(threads=1, memory_gb=1)


@pytest.mark.parametrize("lift", [0.01, 0.05])
def test_with_the_users_that_it_names_a_lift_is_found_in_eighty_of_a_hundred(lift: float) -> None:
    settings = RolloutSettings()
    known = Estimate("satisfied_clicks", (1000, 1000), 0.4, 0.4, 2 * 0.3**2 / 1000, 0.0)
    users = users_for(known, lift, settings)
    error = math.sqrt(2 * 0.3**2 / users)
    drawn = 0.4 * (1 + lift) + error * np.random.default_rng(2).standard_normal(4000)
    one = [Estimate("satisfied_clicks", (int(users), int(users)), value, 0.4, error**2, 0.0) for value in drawn]
    found = [estimate.interval(settings.alpha, settings.planned_users).low > 0 for estimate in one]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


def test_the_planned_users_that_it_names_find_a_lift_no_later_than_others() -> None:
    settings = RolloutSettings()
    known = Estimate("satisfied_clicks", (1000, 1000), 0.4, 0.4, 2 * 0.3**2 / 1000, 0.0)
    best = planned_for(known, 0.05, settings, 1e9)
    needed = {
        planned: users_for(known, 0.05, settings.model_copy(update={"planned_users": planned}))
        for planned in (best // 10, best, best * 10)
    }
    assert min(needed, key=lambda planned: needed[planned]) == best
    assert needed[best] == pytest.approx(best, rel=0.02)
    assert planned_for(known, 0.05, settings, 700) == 700  # more will not come
    assert tau(known, settings) == pytest.approx(0.3 * math.sqrt(2 / 20_000) * math.sqrt(8.7818) / 0.4, rel=1e-3)


def test_the_ramp_goes_on_when_a_step_has_lasted_and_has_its_users() -> None:
    settings = RolloutSettings(steps=(1, 10, 50), min_users=500, bake_hours=48, max_days=10)
    reached = schedule(20_000, settings)
    assert [total for total, _ in reached][:6] == [200, 400, 600, 2600, 4600, 14_600]
    assert [done for _, done in reached].index(True) == 6
    assert not any(done for _, done in schedule(10, settings))


def test_a_log_says_how_long_it_takes(make_impressions: Callable[..., pa.Table], tmp_path: Path) -> None:
    log = make_impressions(searches=3000)
    users = pa.array([f"u{int(one.split('-')[1]) * 7919 % 2000}" for one in log["query_id"].to_pylist()])
    log = log.set_column(log.schema.get_field_index("user_id"), "user_id", users)
    contracts.write(log, tmp_path / "log", contracts.IMPRESSIONS)
    settings = RolloutSettings(steps=(50,), guardrails={"abandonment": 0.5}, min_users=5, max_days=400)
    found = plan(tmp_path / "log", settings, ENGINE)
    assert 3 < found.users_a_day < 6  # some 1,600 in a year
    days = found.days["satisfied_clicks"]
    assert days[0.05] <= days[0.02] <= days[0.01] == math.inf
    assert found.guardrail_days["abandonment"] < 400
    assert told(found)["days until 1% more satisfied_clicks is found"] == "not in time"
    assert str(told(found)["tau of satisfied_clicks by planned_users"]).endswith("%")
    assert found.planned["satisfied_clicks"][0.05] <= found.planned["satisfied_clicks"][0.01] <= 400 * 6 / 2
    contracts.write(log.slice(0, 0), tmp_path / "none", contracts.IMPRESSIONS)
    with pytest.raises(UserError, match="no impressions, so no traffic to plan with"):
        plan(tmp_path / "none", settings, ENGINE)
