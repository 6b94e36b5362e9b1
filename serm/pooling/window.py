"""A window of a log, cut out before a cycle begins."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from serm import stream
from serm.settings import Settings


def cut(log: Path, window: tuple[datetime, datetime], out: Path, settings: Settings) -> Path:
    """Cut ``window`` out of ``log`` as the ingest step does, into ``out``; return its IMPRESSIONS."""
    cycle = settings.cycle.model_copy(update={"start": window[0], "end": window[1]})
    stream.ingest(log, out, settings.model_copy(update={"cycle": cycle}))
    return out / "impressions"
