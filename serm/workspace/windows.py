"""Windows that follow each other: which one a cycle learns from next, and whether the log covers it yet."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serm.atomic import write_text
from serm.errors import UserError
from serm.layout import PARAMS
from serm.settings import Settings, parse
from serm.settings.cycle import CycleSettings
from serm.workspace.progress import Progress

_SECOND = "%Y-%m-%dT%H:%M:%SZ"


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


def go_on(root: Path, settings: Settings, reaches_to: Callable[[], datetime]) -> Settings | None:
    """Set params.yaml to the next cycle where the state is past this one, and return the settings of the cycle to run.

    None: the log, which ``reaches_to`` that time, does not cover the next window yet: it would be a part of itself.
    """
    if not Progress.read(root).is_past(settings.cycle.name):
        return settings
    cycle = next_cycle(settings.cycle)
    if reaches_to() < cycle.end - _tolerance(cycle):
        return None
    text = with_cycle((root / PARAMS).read_text(encoding="utf-8"), cycle, str(root / PARAMS))
    write_text(root / PARAMS, text)
    return parse(text)


def _tolerance(cycle: CycleSettings) -> timedelta:
    """How long before a window's end a log may fall silent and still cover it: a hundredth, at least a minute."""
    return max((cycle.end - cycle.start) / 100, timedelta(minutes=1))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
