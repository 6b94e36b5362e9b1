"""A look at the joined log: the users of both groups, and every metric that the settings read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis

from serm import contracts, engine
from serm.rollout import metrics
from serm.rollout.estimates import Estimate, estimate
from serm.settings import EngineSettings, RolloutSettings


def read(
    log: Path, stages: Sequence[datetime], until: datetime, settings: RolloutSettings, on: EngineSettings
) -> tuple[list[tuple[int, int]], int, dict[str, Estimate]]:
    """Return users by stage (challenger, control), users seen in both groups, and the estimates that can be made.

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
        users = of_log(impressions, stages, until, settings)
        rows = metrics.moments(users, settings.metrics).to_pyarrow().to_pylist()
    kept = [row for row in rows if not row["crossed"]]
    return counts(kept, len(stages)), sum(row["n"] for row in rows if row["crossed"]), estimates(kept, settings)


def of_log(
    impressions: ibis.Table, stages: Sequence[datetime], until: datetime, settings: RolloutSettings
) -> ibis.Table:
    """Return ``metrics.by_user`` of the log's part that counts."""
    early = stages[0] - timedelta(days=settings.before_days)
    impressions = impressions.filter(
        (impressions.event_time >= ibis.literal(early)) & (impressions.event_time < ibis.literal(until))
    )
    searches = metrics.by_search(impressions, settings.change_query_seconds)
    return metrics.by_user(searches, stages, until, settings.winsorise, settings.before_days)


def counts(rows: Sequence[dict[str, Any]], stages: int) -> list[tuple[int, int]]:
    """Return the users of challenger and control by stage, of the rows of ``metrics.moments``."""
    of = {(row["stage"], bool(row["challenger"])): int(row["n"]) for row in rows}
    return [(of.get((stage, True), 0), of.get((stage, False), 0)) for stage in range(stages)]


def estimates(rows: Sequence[dict[str, Any]], settings: RolloutSettings) -> dict[str, Estimate]:
    """Return the estimates of the settings' metrics, those left out that nobody's searches give yet."""
    found = {name: estimate(rows, name) for name in settings.metrics}
    return {name: one for name, one in found.items() if one is not None}
