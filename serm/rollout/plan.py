"""Before the start: how long a rollout will take, and what it can find, from the traffic that the log shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import ibis

from serm import contracts, engine
from serm.errors import UserError
from serm.rollout import look, metrics
from serm.rollout.estimates import PRIOR_ALPHA, Estimate
from serm.rollout.metrics import METRICS
from serm.rollout.sequence import half_width, prior_variance
from serm.settings import EngineSettings, RolloutSettings

LIFTS = (0.01, 0.02, 0.05)
_QUANTILE_80 = 0.8416212335729143
"""Of the normal distribution: with so many standard errors beyond the interval's reach, 80 of 100 are found."""


@dataclass(frozen=True)
class Plan:
    """What a rollout on the log's traffic could find."""

    users_a_day: float
    """First seen on a day, of the whole site, on average over the log."""
    values: dict[str, float]
    """Metric -> its value in the log."""
    ramp_days: float
    """Until the last step is done, where nothing speaks against it; infinite where ``max_days`` does not suffice."""
    days: dict[str, dict[float, float]]
    """Primary metric -> lift (a share of its value) -> days until it is found with a chance of 80 %."""
    guardrail_days: dict[str, float]
    """Guardrail -> days until a loss beyond its margin is ruled out with that chance, where there is none."""
    tau: dict[str, float]
    """Primary metric -> standard deviation of the mixture over its true relative difference, by ``planned_users``."""
    planned: dict[str, dict[float, int]]
    """Primary metric -> lift -> the ``planned_users`` with which it is found soonest, as far as the traffic goes."""


def plan(log: Path, settings: RolloutSettings, on: EngineSettings, lifts: Sequence[float] = LIFTS) -> Plan:
    """Return what a rollout could find; users' habits are left out, so CUPED may make it sooner.

    Args:
        log: a joined log (IMPRESSIONS) of a few days or more, whatever its variants.
        settings: of the rollout.
        on: the engine that reads the log.
        lifts: relative improvements of the primary metrics.

    Raises:
        UserError: the log cannot be read, or has fewer than two users.
    """
    with engine.connect(on) as connection:
        impressions = contracts.scan(connection, log, contracts.IMPRESSIONS)
        span = impressions.aggregate(first=impressions.event_time.min(), last=impressions.event_time.max())
        first, last = (span.to_pyarrow().to_pylist()[0][name] for name in ("first", "last"))
        if first is None:
            raise UserError(f"{log}: no impressions, so no traffic to plan with.")
        until = last + timedelta(seconds=1)
        everyone = impressions.mutate(variant=ibis.literal("control"))
        users = look.of_log(everyone, [first], until, settings.model_copy(update={"before_days": 0.0}))
        rows = metrics.moments(users, settings.metrics).to_pyarrow().to_pylist()
    # The same users in both groups: the variance of a difference between two groups like them.
    mirrored = [{**row, "challenger": side} for row in look.summed(rows) for side in (True, False)]
    known = look.estimates(mirrored, settings)
    if not known:
        raise UserError(f"{log}: fewer than two users, so nothing to plan with.")
    a_day = sum(row["n"] for row in rows) / max((until - first) / timedelta(days=1), 1.0)
    reached = schedule(a_day, settings)
    ramp = next((day for day, (_, done) in enumerate(reached, 1) if done), math.inf)
    return Plan(
        users_a_day=a_day,
        values={name: one.control for name, one in known.items()},
        ramp_days=ramp,
        days={
            name: {lift: _days(reached, users_for(known[name], lift, settings), ramp) for lift in lifts}
            for name in settings.primary
            if name in known
        },
        guardrail_days={
            name: _days(reached, users_for(known[name], margin, settings), ramp)
            for name, margin in settings.guardrails.items()
            if name in known
        },
        tau={name: tau(known[name], settings) for name in settings.primary if name in known},
        planned={
            name: {lift: planned_for(known[name], lift, settings, reached[-1][0] if reached else 0) for lift in lifts}
            for name in settings.primary
            if name in known
        },
    )


def tau(one: Estimate, settings: RolloutSettings) -> float:
    """Return the mixture's standard deviation, as a share of the metric's value."""
    scale = abs(one.control) or 1.0
    return math.sqrt(prior_variance(_per_pair(one) / settings.planned_users, PRIOR_ALPHA)) / scale


def planned_for(one: Estimate, lift: float, settings: RolloutSettings, most: float) -> int:
    """Return the users of each group, ``most`` at most, whose interval is narrowest where ``lift`` is found."""
    planned = float(settings.planned_users)
    for _ in range(20):
        found = users_for(one, lift, settings.model_copy(update={"planned_users": planned}))
        if math.isinf(found) or abs(found - planned) < 0.01 * planned:
            planned = found
            break
        planned = found
    return max(1, round(min(planned, most)))


def _per_pair(one: Estimate) -> float:
    """Return the variance of the difference of one user in each group."""
    return one.variance * 2 / (1 / one.users[0] + 1 / one.users[1])


def users_for(one: Estimate, lift: float, settings: RolloutSettings) -> float:
    """Return the users of each group at which a relative difference of ``lift`` is found in 80 of 100 rollouts.

    It is found where the estimate lies beyond the interval's half width; the search goes by halves.
    """
    per_pair = _per_pair(one)
    effect = lift * abs(one.control)
    if per_pair <= 0 or effect <= 0:
        return math.inf
    prior = prior_variance(per_pair / settings.planned_users, PRIOR_ALPHA)

    def found(users: float) -> bool:
        variance = per_pair / users
        return float(half_width(variance, prior, settings.alpha)) + _QUANTILE_80 * math.sqrt(variance) <= effect

    low, high = 1.0, 1e12
    if not found(high):
        return math.inf
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def schedule(users_a_day: float, settings: RolloutSettings) -> list[tuple[float, bool]]:
    """Return for each day of ``max_days`` the users of each group by then, and whether the last step is done."""
    reached: list[tuple[float, bool]] = []
    total = here = 0.0
    step, lasted = 0, 0
    for _ in range(math.floor(settings.max_days)):
        new = users_a_day * settings.steps[step] / 100
        total, here, lasted = total + new, here + new, lasted + 1
        over = lasted * 24 >= settings.bake_hours and here >= settings.min_users
        last = step == len(settings.steps) - 1
        reached.append((total, over and last))
        if over and not last:
            step, lasted, here = step + 1, 0, 0.0
    return reached


def _days(reached: Sequence[tuple[float, bool]], users: float, ramp: float) -> float:
    return next((day for day, (total, _) in enumerate(reached, 1) if total >= users and day >= ramp), math.inf)


def told(found: Plan) -> dict[str, int | float | str]:
    """Return a plan as figures; a day that does not come within ``max_days`` is ``not in time``."""

    def days(value: float) -> int | str:
        return "not in time" if math.isinf(value) else int(value)

    figures: dict[str, int | float | str] = {
        "users_a_day": round(found.users_a_day, 1),
        "days_of_the_ramp": days(found.ramp_days),
    }
    for name, by_lift in found.days.items():
        for lift, value in by_lift.items():
            how = "more" if METRICS[name].better > 0 else "less"
            figures[f"days until {lift:.0%} {how} {name} is found"] = days(value)
    for name, by_users in found.planned.items():
        figures[f"tau of {name} by planned_users"] = f"{found.tau[name]:.2%}"
        for lift, users in by_users.items():
            figures[f"planned_users for {lift:.0%} of {name}"] = users
    for name, value in found.guardrail_days.items():
        figures[f"days until {name} is shown to be within its margin"] = days(value)
    return figures
