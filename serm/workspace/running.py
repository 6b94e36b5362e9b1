"""What runs in a workspace now: who holds its lock, and how far a cycle is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serm.atomic import write_json
from serm.layout import RUNNING
from serm.workspace.lock import holder


@dataclass(frozen=True)
class Begun:
    """A step of a cycle that has begun."""

    step: str
    at: datetime
    cached: bool
    """Whether an earlier run had finished it, so that it took no time."""


@dataclass(frozen=True)
class Running:
    """The command that writes in a workspace, and the steps that its cycle has begun, in order."""

    verb: str
    """As the user calls it, such as ``serm evolve``; empty where nothing writes."""
    since: str
    tag: str
    """The cycle that runs, or that ran last; empty where none did."""
    begun: tuple[Begun, ...]
    ended: datetime | None
    """When its last step had ended; None where it runs, or was stopped."""


@dataclass
class Journal:
    """Writes down each step that a cycle begins, in the file that ``running`` reads."""

    root: Path
    tag: str
    _steps: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, step: str, cached: bool) -> None:
        """Write down that ``step`` begins now, or that the cache had it."""
        self._steps.append({"step": step, "at": datetime.now(UTC).isoformat(), "cached": cached})
        self._write(None)

    def end(self) -> None:
        """Write down that all steps have ended."""
        self._write(datetime.now(UTC).isoformat())

    def _write(self, ended: str | None) -> None:
        write_json(self.root / RUNNING, {"tag": self.tag, "steps": self._steps, "ended": ended})


def running(root: Path) -> Running:
    """Return what runs in the workspace ``root``, and how far its cycle is; what cannot be read is not told."""
    held = holder(root)
    try:
        written = json.loads((root / RUNNING).read_text(encoding="utf-8"))
        steps = tuple(
            Begun(str(one["step"]), datetime.fromisoformat(one["at"]), bool(one["cached"])) for one in written["steps"]
        )
        ended = written["ended"] and datetime.fromisoformat(written["ended"])
        tag = str(written["tag"])
    except (OSError, ValueError, TypeError, KeyError):
        tag, steps, ended = "", (), None
    return Running(str(held.get("verb", "")), str(held.get("since", "")), tag, steps, ended)
