"""When a log has impressions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import ibis

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.settings import Settings
from serm.stream.source import open_log


@dataclass(frozen=True)
class Span:
    """When a log has impressions, in UTC."""

    first: datetime
    last: datetime
    days: tuple[datetime, ...]
    """The first impression of each day that has some: a log may have gaps."""


def span(log: Path, settings: Settings) -> Span:
    """Return when ``log`` has impressions.

    Raises:
        UserError: there is no such log, it cannot be read, or no impression in it has a time.
    """
    with (
        TemporaryDirectory(prefix="serm-") as scratch,
        engines.connect(settings.engine) as engine,
        open_log(engine, log, bad := Path(scratch) / "bad_lines", settings) as opened,
    ):
        found = of_rows(opened.rows)
        if found is None:
            raise UserError(f"{log}: no impression in it has a time{_why(bad)}; give a log with its times.")
    return found


def _why(bad_lines: Path) -> str:
    """Say what most of a text log's bad lines lack; nothing where there are none."""
    if not bad_lines.exists():
        return ""
    reasons = Counter(contracts.read(bad_lines, contracts.BAD_LINES)["reason"].to_pylist())
    if not reasons:
        return ""
    (reason, count), total = reasons.most_common(1)[0], sum(reasons.values())
    return f" ({count:,} of {total:,} bad lines: {reason})"


def of_rows(rows: ibis.Table) -> Span | None:
    """Return when a log's ``rows`` (IMPRESSIONS) are; None where none has a time."""
    timed = rows.filter(rows.event_time.notnull())
    by_day = timed.group_by(day=timed.event_time.date())
    times = by_day.aggregate(first=timed.event_time.min(), last=timed.event_time.max()).order_by("day")
    days = times.to_pyarrow().to_pylist()
    if not days:
        return None
    return Span(_utc(days[0]["first"]), _utc(days[-1]["last"]), tuple(_utc(day["first"]) for day in days))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
