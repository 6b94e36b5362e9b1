"""A look at the joined log: the users of both groups, and every metric that the settings read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis

from serm import contracts, engine
from serm.rollout import metrics
from serm.rollout.estimates import Estimate, estimate
from serm.settings import EngineSettings, RolloutSettings


@dataclass(frozen=True)
class Seen:
    """What the log says of the users."""

    users: list[tuple[int, int]]
    """Of challenger and control, by stage."""
    crossed: int
    """Users seen in both groups."""
    estimates: dict[str, Estimate]
    """Metric -> its estimate, where one can be made."""
    segments: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """The same of each locale and each kind of query, such as ``locale en`` or ``tail queries``, that has
    ``min_users`` in each group; none where there is one locale, or one kind of query, only."""


def read(log: Path, stages: Sequence[datetime], until: datetime, settings: RolloutSettings, on: EngineSettings) -> Seen:
    """Return what the log says of the users of both groups.

    Args:
        log: the joined log, a dataset of IMPRESSIONS whose ``variant`` is challenger, control or champion, as
            ``assignment.assign`` said when the search was served.
        stages: when each step of the ramp began, rising, UTC.
        until: the end of what is read.
        settings: of the rollout.
        on: the engine that reads.

    Raises:
        UserError: the log is missing, damaged or has not the contract's columns.
    """
    with engine.connect(on) as connection:
        impressions = contracts.scan(connection, log, contracts.IMPRESSIONS)
        searches = searches_of(impressions, stages, until, settings)
        rows = _moments(searches, stages, until, settings, "locale")
        by_query = _by_traffic(searches, stages, until, settings)
    kept = [row for row in rows if not row["crossed"]]
    return Seen(
        counts(kept, len(stages)),
        sum(row["n"] for row in rows if row["crossed"]),
        estimates(summed(kept), settings),
        segments(kept, "locale", "locale {}", settings) | segments(by_query, "traffic", "{} queries", settings),
    )


def segments(
    rows: Sequence[dict[str, Any]], column: str, called: str, settings: RolloutSettings
) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of each value of ``column`` that has ``min_users`` users in each group, if there are two."""
    values = sorted({str(row[column]) for row in rows})
    found = {value: [row for row in rows if row[column] == value] for value in values}
    return {
        called.format(value): estimates(its, settings)
        for value, its in found.items()
        if len(values) > 1
        and min(sum(row["n"] for row in its if bool(row["challenger"]) is side) for side in (True, False))
        >= settings.min_users
    }


def _by_traffic(
    searches: ibis.Table, stages: Sequence[datetime], until: datetime, settings: RolloutSettings
) -> list[dict[str, Any]]:
    """Return the sums by kind of query; none where nothing is read of the days before, which tell the kinds."""
    if not settings.before_days:
        return []
    kinds = metrics.with_traffic(searches, stages[0], settings.before_days)
    rows = _moments(kinds, stages, until, settings, "traffic")
    return [row for row in rows if not row["crossed"]]


def _moments(
    searches: ibis.Table, stages: Sequence[datetime], until: datetime, settings: RolloutSettings, segment: str
) -> list[dict[str, Any]]:
    part = () if segment == "locale" else (segment,)  # a user has one locale
    users = metrics.by_user(searches, stages, until, settings.winsorise, settings.before_days, part)
    found: list[dict[str, Any]] = metrics.moments(users, settings.metrics, segment).to_pyarrow().to_pylist()
    return found


def summed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.moments`` summed over segments."""
    total: dict[tuple[int, bool], dict[str, Any]] = {}
    for row in rows:
        one = total.setdefault((row["stage"], bool(row["challenger"])), {})
        for name, value in row.items():
            if name not in ("stage", "challenger", "crossed", "locale", "traffic"):
                one[name] = one.get(name, 0) + value
    return [{"stage": stage, "challenger": side, **sums} for (stage, side), sums in total.items()]


def of_log(
    impressions: ibis.Table, stages: Sequence[datetime], until: datetime, settings: RolloutSettings
) -> ibis.Table:
    """Return ``metrics.by_user`` of the log's part that counts."""
    searches = searches_of(impressions, stages, until, settings)
    return metrics.by_user(searches, stages, until, settings.winsorise, settings.before_days)


def searches_of(
    impressions: ibis.Table, stages: Sequence[datetime], until: datetime, settings: RolloutSettings
) -> ibis.Table:
    """Return ``metrics.by_search`` of the log's part that counts."""
    early = stages[0] - timedelta(days=settings.before_days)
    impressions = impressions.filter(
        (impressions.event_time >= ibis.literal(early)) & (impressions.event_time < ibis.literal(until))
    )
    return metrics.by_search(impressions, settings.change_query_seconds)


def counts(rows: Sequence[dict[str, Any]], stages: int) -> list[tuple[int, int]]:
    """Return the users of challenger and control by stage, of the rows of ``metrics.moments``."""
    of = {(row["stage"], row["challenger"]): int(row["n"]) for row in summed(rows)}
    return [(of.get((stage, True), 0), of.get((stage, False), 0)) for stage in range(stages)]


def estimates(rows: Sequence[dict[str, Any]], settings: RolloutSettings) -> dict[str, Estimate]:
    """Return the estimates of the settings' metrics, those left out that nobody's searches give yet."""
    found = {name: estimate(rows, name) for name in settings.metrics}
    return {name: one for name, one in found.items() if one is not None}
