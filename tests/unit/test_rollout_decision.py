"""What a look at the users decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serm.rollout import prometheus
from serm.rollout.decision import ENDS, Look, decide
from serm.rollout.estimates import Estimate
from serm.rollout.health import Health
from serm.rollout.metrics import METRICS
from serm.rollout.split import Variant
from serm.serving import metrics
from serm.settings import RolloutSettings

NOW = datetime(2026, 3, 10, tzinfo=UTC)
SETTINGS = RolloutSettings(watch_days=0)
USERS = 10_000
FAST = Health(2000, 1, 40.0)


def measured(metric: str, lift: float = 0.0, control: float = 0.4, error: float = 0.0005) -> Estimate:
    """A metric whose challenger is better by ``lift``, a share of the control's value."""
    value = control * (1 + METRICS[metric].better * lift)
    return Estimate(metric, (USERS, USERS), value, control, error**2, 0.0)


def look(percent: int = 50, **lifts: float) -> Look:
    return Look(
        at=NOW,
        percent=percent,
        started=NOW - timedelta(days=8),
        since=NOW - timedelta(days=2),
        users=[(2000, 2000), (USERS - 2000, USERS - 2000)],
        crossed=0,
        estimates={name: measured(name, lifts.get(name, 0.0)) for name in SETTINGS.metrics},
        health={"challenger": FAST, "champion": FAST},
    )


def test_a_step_that_is_done_gives_way_to_the_next_and_the_last_one_promotes_what_is_better() -> None:
    assert (decide(look(10), SETTINGS).action, decide(look(10), SETTINGS).percent) == ("advance", 25)
    better = decide(look(50, satisfied_clicks=0.03), SETTINGS)
    assert (better.action, better.percent) == ("promote", 100)
    watched = decide(look(50, satisfied_clicks=0.03), RolloutSettings())
    assert (watched.action, watched.percent) == ("advance", 100)
    assert "satisfied_clicks is confidently better: 0.4120 against 0.4000" in better.reasons[0]


def test_nothing_is_promoted_before_the_last_step_or_for_a_metric_that_is_not_primary() -> None:
    assert decide(look(25, satisfied_clicks=0.1), SETTINGS).action == "advance"
    held = decide(look(50, click_through=0.1), SETTINGS)
    assert (held.action, held.percent) == ("hold", 50)
    assert held.reasons == ("no primary metric (satisfied_clicks) is confidently better yet",)


@pytest.mark.parametrize("harm", [{"satisfied_clicks": -0.05}, {"abandonment": -0.05}, {"negative_feedback": -0.3}])
def test_users_who_fare_worse_roll_it_back_at_any_step(harm: dict[str, float]) -> None:
    for percent in SETTINGS.steps:
        back = decide(look(percent, **harm), SETTINGS)
        assert (back.action, back.percent) == ("roll_back", 0)
        assert next(iter(harm)) in back.reasons[0]


def test_a_loss_within_the_margin_neither_rolls_back_nor_hinders() -> None:
    tolerated = look(50, abandonment=-0.012, satisfied_clicks=0.05)
    assert decide(tolerated, SETTINGS).action == "promote"
    doubtful = look(50, abandonment=-0.0195, satisfied_clicks=0.05)
    held = decide(doubtful, SETTINGS)
    assert (held.action, held.reasons) == ("hold", ("abandonment: a loss of more than 2.0% is not ruled out yet",))


def test_a_worse_signal_holds_the_ramp_for_a_person() -> None:
    held = decide(look(10, click_through=-0.1), SETTINGS)
    assert (held.action, held.percent) == ("hold", 10)
    assert "click_through is confidently worse" in held.reasons[0]


def test_a_locale_that_fares_worse_holds_the_ramp_for_a_person() -> None:
    fine, worse = measured("satisfied_clicks", 0.01), measured("satisfied_clicks", -0.05)
    held = decide(
        replace(
            look(10), segments={"locale de": {"satisfied_clicks": worse}, "tail queries": {"satisfied_clicks": fine}}
        ),
        SETTINGS,
    )
    assert held.action == "hold"
    assert held.reasons[0].startswith("satisfied_clicks in locale de is confidently worse")
    assert held.findings["p_worse_by_segment"]["satisfied_clicks in tail queries"] > 0.5


def test_groups_of_unequal_size_are_an_error_and_no_metric_is_read() -> None:
    lost = decide(replace(look(50, satisfied_clicks=0.1), users=[(10_000, 10_600)]), SETTINGS)
    assert (lost.action, lost.percent) == ("error", 0)
    assert set(lost.findings) == {"sample_ratio_p"}
    in_one_step = replace(look(), users=[(20_000, 20_000), (1000, 1300)])
    assert decide(in_one_step, SETTINGS).action == "error"
    assert decide(replace(look(), users=[(10_000, 10_200)]), SETTINGS).action == "hold"


def test_users_in_both_groups_are_an_error() -> None:
    crossed = decide(replace(look(), crossed=500), SETTINGS)
    assert crossed.action == "error"
    assert "500 of 20500 users were seen in both groups" in crossed.reasons[0]


def test_few_users_a_short_step_and_missing_metrics_wait_and_never_promote() -> None:
    few = replace(look(10, satisfied_clicks=0.2), users=[(499, 499)])
    assert decide(few, SETTINGS).reasons == ("this step has brought 499 of 500 users to the smaller group",)
    short = replace(look(10), since=NOW - timedelta(hours=3))
    assert decide(short, SETTINGS).reasons == ("this step has lasted 3.0 of 24 hours",)
    complete = look(50, satisfied_clicks=0.2)
    blind = replace(complete, estimates={k: v for k, v in complete.estimates.items() if k != "change_query"})
    assert decide(blind, SETTINGS).reasons == ("change_query cannot be read yet",)
    same = {**complete.estimates, "negative_feedback": measured("negative_feedback", control=0.0, error=0.0)}
    assert "take it out of rollout.guardrails" in decide(replace(complete, estimates=same), SETTINGS).reasons[0]


def test_a_rollout_that_decides_nothing_in_time_keeps_the_champion() -> None:
    late = replace(look(), started=NOW - timedelta(days=28))
    ended = decide(late, SETTINGS)
    assert (ended.action, ended.percent) == ("inconclusive", 0)
    assert decide(replace(late, users=[(10, 10)]), SETTINGS).action == "inconclusive"
    assert decide(replace(look(50, satisfied_clicks=0.03), started=late.started), SETTINGS).action == "promote"


@pytest.mark.parametrize(
    ("sick", "told"),
    [(Health(2000, 60, 40.0), "3.00% of the challenger's requests fail"), (Health(2000, 1, 121.0), "up to 121 ms")],
)
def test_a_server_that_fails_or_is_slow_is_taken_back_even_before_any_metric_can_be_read(
    sick: Health, told: str
) -> None:
    early = replace(look(1), users=[(3, 3)], estimates={}, health={"challenger": sick, "champion": FAST})
    back = decide(early, SETTINGS)
    assert (back.action, back.percent) == ("roll_back", 0)
    assert told in back.reasons[0]


def test_a_few_failures_are_no_reason_and_a_few_requests_tell_nothing_yet() -> None:
    fine = replace(look(10), health={"challenger": Health(2000, 4, 60.0), "champion": FAST})
    assert decide(fine, SETTINGS).action == "advance"
    silent = replace(look(50, satisfied_clicks=0.05), health={"challenger": Health(100, 50, 900.0), "champion": FAST})
    held = decide(silent, SETTINGS)
    assert (held.action, held.reasons) == (
        "hold",
        ("a model's server has taken 100 of the 200 requests that tell its health",),
    )


BUCKETS = {
    "coarse": (1, 2.5, 5, 10, 25, 50, 100, 250, math.inf),
    "the predictor's own": (*(1000 * one for one in metrics._SECONDS), math.inf),
}


def timed(milliseconds: Any, bounds: Sequence[float]) -> Health:
    """The health of a server whose answers took so long, as a histogram of these bounds tells it."""
    within = tuple((bound, int((milliseconds <= bound).sum())) for bound in bounds)
    labels = [({"le": str(bound / 1000) if bound < math.inf else "+Inf"}, float(count)) for bound, count in within]
    counted = prometheus._Asked("", "", labels).histogram()
    return Health(len(milliseconds), 0, prometheus._percentile(counted), counted)


@pytest.mark.parametrize("buckets", BUCKETS)
def test_buckets_and_chance_make_no_server_slow_at_any_of_many_looks_and_a_slow_one_is_found(buckets: str) -> None:
    """95 % of the champion's answers take up to 9.6 ms, of one 15 % slower 11: an older bucket ended at 10, the next
    at 25, so that a percentile read 2.3 times as much."""
    generator = np.random.default_rng(7)
    bounds = BUCKETS[buckets]
    for run in range(40):
        champion, other = (9.6 * np.exp(0.5 * (generator.normal(size=20_000) - 1.645)) for _ in range(2))
        for count in (200, 400, 800, 1600, 3200, 6400, 12_800, 20_000):
            usual = timed(champion[:count], bounds)
            for slower in (1.0, 1.15, 1.9):
                sides: dict[Variant, Health] = {"challenger": timed(slower * other[:count], bounds), "champion": usual}
                assert decide(replace(look(10), health=sides), SETTINGS).action == "advance", (run, count, slower)
        for slower, count in ((3, 3000), (10, 400), (10_000, 400)):
            sides = {"challenger": timed(slower * other[:count], bounds), "champion": timed(champion[:count], bounds)}
            assert decide(replace(look(10), health=sides), SETTINGS).action == "roll_back", (run, slower)
    assert "take up to more than" in decide(replace(look(10), health=sides), SETTINGS).reasons[0]


def test_weeks_without_a_failure_hide_none_of_today_s_and_chance_is_none_at_any_look() -> None:
    whole: dict[Variant, Health] = {"challenger": Health(500_000, 900, 40.0), "champion": Health(500_000, 900, 40.0)}
    sick: dict[Variant, Health] = {"challenger": Health(800, 80, None), "champion": Health(800, 0, None)}
    back = decide(replace(look(50), health=whole, recent=sick, looks=400), SETTINGS)
    assert back.action == "roll_back"
    assert back.reasons[0] == ("since the last look, 10.00% of the challenger's requests fail, 0.00% of the champion's")
    generator = np.random.default_rng(5)
    for looks in range(600):  # as an hour of a healthy server is
        errors = generator.binomial(800, 0.01, 2)
        fine: dict[Variant, Health] = {
            "challenger": Health(800, int(errors[0]), None),
            "champion": Health(800, int(errors[1]), None),
        }
        assert decide(replace(look(50), health=whole, recent=fine, looks=looks), SETTINGS).action == "hold"


def test_a_server_that_takes_no_request_where_many_are_due_is_taken_back() -> None:
    none = {"challenger": Health(0, 0, None), "champion": Health(30_000, 0, 40.0)}
    blind = replace(look(10), users=[(0, 0)], estimates={}, health=none)
    back = decide(blind, SETTINGS)
    assert (back.action, back.percent) == ("roll_back", 0)
    assert "has taken no request at 10 %, where 666 or more were due and the champion's took 30000" in back.reasons[0]
    # Its users searched, and another server answered them.
    few = {**none, "champion": Health(1000, 0, 40.0)}
    assert decide(replace(blind, users=[(300, 300)], health=few), SETTINGS).action == "roll_back"
    # Neither so few requests nor so short a time tell anything.
    assert decide(replace(blind, health=few), SETTINGS).action == "hold"
    assert decide(replace(blind, since=NOW - timedelta(minutes=10)), SETTINGS).action == "hold"
    assert decide(replace(blind, health={**none, "champion": Health(0, 0, None)}), SETTINGS).action == "hold"


@pytest.mark.parametrize(
    ("health", "missing"),
    [
        (None, "errors and latency"),
        ({"challenger": Health(2000, 0, None), "champion": FAST}, "latency"),
        ({"challenger": FAST, "champion": Health(2000, 0, None)}, "latency"),
        ({"challenger": FAST, "champion": Health(2000, 0, None, ((5.0, 0), (math.inf, 2000)))}, "latency"),
    ],
)
def test_health_that_nobody_measures_gives_no_more_traffic_unless_the_settings_say_so(
    health: dict[Variant, Health] | None, missing: str
) -> None:
    unwatched = SETTINGS.model_copy(update={"unwatched": tuple(missing.split(" and "))})
    for seen in (replace(look(50, satisfied_clicks=0.05), health=health), replace(look(1), health=health)):
        held = decide(seen, SETTINGS)
        assert (held.action, held.percent) == ("hold", seen.percent)
        assert held.reasons[0].startswith(f"nothing is known of the servers' {missing}: set rollout.prometheus")
        assert decide(seen, unwatched).action in ("promote", "advance")


LIFT = st.floats(-0.3, 0.3)


@given(
    st.sampled_from(SETTINGS.steps),
    st.fixed_dictionaries({name: LIFT for name in SETTINGS.metrics}),
    st.integers(0, 40_000),
    st.integers(0, 30),
)
def test_whatever_the_numbers_say_the_share_grows_by_one_step_or_ends(
    percent: int, lifts: dict[str, float], users: int, days: int
) -> None:
    now = replace(look(percent, **lifts), users=[(users, users)], started=NOW - timedelta(days=days))
    found = decide(now, SETTINGS)
    following = [step for step in SETTINGS.steps if step > percent]
    allowed = {"hold": percent, "advance": following[0] if following else None, **ENDS}
    assert found.percent == allowed[found.action]
    assert found.reasons
    if found.action == "promote":
        assert lifts["satisfied_clicks"] > 0
        assert percent == SETTINGS.steps[-1]


def test_settings_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not rise"):
        RolloutSettings(steps=(5, 1))
    with pytest.raises(ValidationError, match="abandonment stands in two"):
        RolloutSettings(signals=("abandonment",))
