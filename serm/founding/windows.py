"""Windows of a team's log: which ones there are, and one of them cut out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from serm import stream
from serm.errors import UserError
from serm.settings import Settings
from serm.stream.look import Seen
from serm.stream.span import Span, span

Window = tuple[datetime, datetime]


def fitting(log: Path, settings: Settings) -> tuple[Seen, Settings, Span]:
    """Look at ``log``; return what was seen, the settings that fit it, and when it has impressions."""
    seen = stream.look(log, settings)
    settings = settings.model_copy(update={"stream": settings.stream.model_copy(update=seen.settings)})
    return seen, settings, seen.span or span(log, settings)


def windows(log: Span, every: float) -> tuple[Window, Window, list[str]]:
    """Return the reference window, the first cycle's, and what is to say of them.

    The first cycle's is the last whole window of ``every`` days, so that it learns from now. The reference is the one
    before it; where the log has a gap there, the last one before that has impressions. Of a log that is shorter than
    both, they are its halves.
    """
    days, after = timedelta(days=every), (log.last + timedelta(seconds=1)).replace(microsecond=0)
    window = after - days
    busy = [day for day in log.days if day < window]
    if busy and log.first < window - days:
        until = min(window, datetime(*busy[-1].timetuple()[:3], tzinfo=UTC) + timedelta(days=1))
        gap = f"The log has a gap from {until:%Y-%m-%d} on: the reference window ends there."
        return (until - days, until), (window, after), [] if until == window else [gap]
    begin = log.first.replace(microsecond=0)
    middle = (begin + (after - begin) / 2).replace(microsecond=0)
    if not begin < middle < after:
        raise UserError(f"the log spans {log.first} to {log.last}: no two windows; give a log of a longer time.")
    note = f"The log is shorter than two windows of {every:g} days: its first half is the reference, its second half is"
    return (begin, middle), (middle, after), [f"{note} the first cycle's window. Later windows last {every:g} days."]
