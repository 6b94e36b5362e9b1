"""Windows that follow each other: which one a cycle learns from next, and whether the log covers it yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from serm import engine as engines
from serm.atomic import write_text
from serm.errors import UserError
from serm.layout import LOG, PARAMS
from serm.settings import Settings, parse
from serm.settings.cycle import CycleSettings
from serm.stream.source import open_log
from serm.workspace.progress import Progress

_SECOND = "%Y-%m-%dT%H:%M:%SZ"


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
        open_log(engine, log, Path(scratch) / "bad_lines", settings) as opened,
    ):
        timed = opened.rows.filter(opened.rows.event_time.notnull())
        by_day = timed.group_by(day=timed.event_time.date())
        times = by_day.aggregate(first=timed.event_time.min(), last=timed.event_time.max()).order_by("day")
        days = engine.to_pyarrow(times).to_pylist()
    if not days:
        raise UserError(f"{log}: no impression in it has a time; give a log with its times.")
    return Span(_utc(days[0]["first"]), _utc(days[-1]["last"]), tuple(_utc(day["first"]) for day in days))


def next_cycle(cycle: CycleSettings) -> CycleSettings:
    """Return the cycle after ``cycle``: its window begins where that one's ends, and lasts ``every`` days."""
    end = cycle.end + timedelta(days=cycle.every)
    return cycle.model_copy(update={"number": cycle.number + 1, "start": cycle.end, "end": end})


def with_cycle(text: str, cycle: CycleSettings, name: str = "params.yaml") -> str:
    """Return the text of a params.yaml whose cycle is another one; nothing else in it changes, comments stay.

    Raises:
        UserError: number, start or end do not stand on lines of their own, two blanks in.
    """
    times = {"start": f'"{_utc(cycle.start):{_SECOND}}"', "end": f'"{_utc(cycle.end):{_SECOND}}"'}
    for field, value in {"number": str(cycle.number), **times}.items():
        text, found = re.subn(rf"(?m)^  {field}:[^#\n]*?(?=\s*(#.*)?$)", f"  {field}: {value}", text, count=1)
        if not found:
            raise UserError(f"{name}: cycle.{field} stands on no line of its own; write `  {field}: {value}` there.")
    parse(text, name)
    return text


def go_on(root: Path, settings: Settings) -> Settings | None:
    """Set params.yaml to the next cycle where the state is past this one, and return the settings of the cycle to run.

    None: the log does not reach to the next window's end yet, so the window would be a part of itself.
    """
    if not Progress.read(root).is_past(settings.cycle.name):
        return settings
    cycle = next_cycle(settings.cycle)
    if span(root / LOG, settings).last < cycle.end - _tolerance(cycle):
        return None
    text = with_cycle((root / PARAMS).read_text(encoding="utf-8"), cycle, str(root / PARAMS))
    write_text(root / PARAMS, text)
    return parse(text)


def _tolerance(cycle: CycleSettings) -> timedelta:
    """How long before a window's end a log may fall silent and still cover it: a hundredth, at least a minute."""
    return max((cycle.end - cycle.start) / 100, timedelta(minutes=1))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
