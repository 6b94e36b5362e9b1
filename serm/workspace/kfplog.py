"""What ``kfp.local`` prints, kept whole in a file and shown to people as the steps' own lines."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from serm.escaping import visible

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_START = re.compile(r"Executing task '([\w-]+)'|Task ([\w-]+) cache hit")
_ERROR = re.compile(r"^\s*(?:serm\.errors\.UserError: |(?=[\w.]+(?:Error|Exception|Interrupt)\b))(.*)")
_FIGURES = re.compile(r"\[KFP Executor [^\]]*\]: serm: (.*)")


class StepLog(io.TextIOBase):
    """A text stream: writes all it gets to ``path`` and shows the steps' starts and their own lines."""

    def __init__(self, path: Path, steps: Sequence[str], begun: Callable[[str, bool], None]) -> None:
        """Write to ``path``; ``begun`` is told of each of ``steps`` that begins, and whether the cache had it."""
        self.path = path
        self._begun = begun
        self.error: str | None = None
        """The last error that a step printed."""
        self._steps = steps
        self._progress = re.compile(rf"\s*((?:{'|'.join(steps)}): .*)")  # what a step prints of itself
        self._shown: TextIO = sys.stdout
        self._started = time.monotonic()
        self._rest = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Take ``text``; whole lines are shown as soon as they end."""
        self._file.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(visible(_ANSI.sub("", line)))
        return len(text)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _take(self, line: str) -> None:
        if error := _ERROR.match(line):
            self.error = error[1]
        if start := _START.search(line):
            name = start[1] or start[2]
            if name in self._steps:
                self._begun(name, not start[1])
                self._show(f"{name}{'' if start[1] else ' (done before, taken from the cache)'}")
        elif figures := _FIGURES.search(line):
            self._show(f"  {figures[1]}")
        elif progress := self._progress.match(line):
            self._show(f"  {progress[1]}")

    def _show(self, line: str) -> None:
        self._shown.write(f"[{time.monotonic() - self._started:6.1f} s] {line}\n")
        self._shown.flush()
