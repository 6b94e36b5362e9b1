"""Windows of a team's log: which ones there are, and one of them cut out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serm import stream
from serm.errors import UserError
from serm.settings import Settings
from serm.stream.look import Seen
from serm.stream.span import Span, span

Window = tuple[datetime, datetime]


def fitting(log: Path, settings: Settings) -> tuple[Seen, Settings, Span]:
    """Look at ``log``; return what was seen, the settings that fit it, and when it has impressions.

    What a team's own params.yaml says of ``stream`` stays: what the log would have otherwise is a warning.
    """
    seen, own = stream.look(log, settings), settings.stream.model_fields_set
    if refused := {name: value for name, value in seen.settings.items() if name in own}:
        kept = {name: value for name, value in seen.settings.items() if name not in own}
        told = [f"stream.{name} stays as given; by what it holds it were {value!r}" for name, value in refused.items()]
        seen = replace(seen, settings=kept, warnings=[*seen.warnings, *told], span=None)
    settings = settings.model_copy(update={"stream": settings.stream.model_copy(update=seen.settings)})
    return seen, settings, seen.span or span(log, settings)


def windows(log: Span, every: float, first: Window | None = None) -> tuple[Window, Window, list[str]]:
    """Return the reference window, the first cycle's, and what is to say of them.

    With ``first`` that one is the first cycle's, and the reference is the ``every`` days before it, or what the log has
    of them.

    The first cycle's is the last whole window of ``every`` days, so that it learns from now. The reference is the one
    before it; where the log has a gap there, the last one before that has impressions; where the log begins in it, what
    the log has of it, if that is a third of it. Of a log that is shorter, they are its halves.
    """
    days, after = timedelta(days=every), (log.last + timedelta(seconds=1)).replace(microsecond=0)
    if first is not None:
        return _before(log, first, days), first, []
    window = after - days
    busy = [day for day in log.days if day < window]
    if busy and log.first < window - days / 3:
        until = min(window, datetime(*busy[-1].timetuple()[:3], tzinfo=UTC) + timedelta(days=1))
        gap = f"The log has a gap from {until:%Y-%m-%d} on: the reference window ends there."
        notes = [] if until == window else [gap]
        start = until - days
        if log.first.replace(microsecond=0) > start and log.first >= window - days:
            start = log.first.replace(microsecond=0)
            told = f"{(until - start).total_seconds() / 86400:.1f} of {every:g} days"
            notes.append(f"The log begins late: the reference window has {told}.")
        return (start, until), (window, after), notes
    begin = log.first.replace(microsecond=0)
    middle = (begin + (after - begin) / 2).replace(microsecond=0)
    if not begin < middle < after:
        raise UserError(f"the log spans {log.first} to {log.last}: no two windows; give a log of a longer time.")
    note = f"The log is shorter than two windows of {every:g} days: its first half is the reference, its second half is"
    return (begin, middle), (middle, after), [f"{note} the first cycle's window. Later windows last {every:g} days."]


def _before(log: Span, window: Window, days: timedelta) -> Window:
    """Return the window of at most ``days`` before ``window`` that the log has impressions in."""
    start = max(window[0] - days, log.first.replace(microsecond=0))
    if not any(start <= day < window[0] for day in (log.first, *log.days)):
        raise UserError(
            f"the log spans {log.first} to {log.last}: nothing of it lies in the {days.days} days before cycle.start"
            f" ({window[0]}), which the first window is to be compared with; give another cycle.start."
        )
    return start, window[0]
