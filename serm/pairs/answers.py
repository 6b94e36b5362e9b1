"""What people said of pairs, each answer in the order in which it came in: a line of ``answers.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Key = tuple[str, str, str]
"""Query, locale, document."""
ANSWERS = "answers.jsonl"
"""Beside the judgments that people made; a null grade takes the pair's judgment back."""
PAGE, IMPORT, CORRECTION = "page", "import", "correction"
"""What an answer came through: `serm review`, another tool's export, or `serm judgments correct` and `retire`."""


@dataclass(frozen=True)
class Said:
    """One answer."""

    at: datetime
    """When it was given; where another tool does not tell, when it came in."""
    through: str
    by: str
    key: Key
    grade: int | None


def line(through: str, key: Key, grade: int | None, note: str = "", by: str = "", at: datetime | None = None) -> str:
    """Return an answer as a line; without ``at`` it is given now."""
    when = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    row: dict[str, Any] = {"at": when, "through": through, "by": by}
    row |= dict(zip(("query", "locale", "doc_id"), key, strict=True)) | {"grade": grade, "note": note}
    return json.dumps(row, ensure_ascii=False) + "\n"


def time_of(text: str) -> datetime | None:
    """Return the time that ``text`` tells (ISO 8601; without a zone it is UTC), or None."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def read(directory: Path) -> bytes:
    """Return the lines in ``directory``, none where there are none."""
    try:
        return (directory / ANSWERS).read_bytes()
    except FileNotFoundError:
        return b""


def said(lines: bytes) -> Iterator[Said]:
    """Yield the answers in ``lines``; a line that somebody edited into something else is passed over."""
    for text in lines.decode("utf-8", "replace").split("\n"):
        try:
            row = json.loads(text)
            at = time_of(row["at"])
            key = (row["query"], row["locale"], row["doc_id"])
            if at is not None:
                yield Said(at, row["through"], row["by"], key, row["grade"])
        except (ValueError, KeyError, TypeError):
            continue
