"""The rows of a table (CSV, TSV, ...) with a header, as JSON objects of texts."""

from __future__ import annotations

import csv
import json
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from serm.errors import UserError
from serm.lines import MAX_LINE_BYTES, raw_lines, readable_lines

Record = tuple[int, str | None, str | None]
"""The line on which it begins (or its number), its text, the reason why it has none."""
_MAX_LINES = 500
"""Lines that one quoted field may span; a quote that is not closed by then was none."""


def rows(path: Path, separator: str) -> Iterator[Record]:
    """Yield line, JSON text and reason of each row of the table in the file ``path``.

    A quoted field may go over several lines. A quote that leads to another number of fields than the header has is a
    character like any other. Blank lines are left out.

    Raises:
        UserError: the header cannot be read, or names two columns alike.
        BrokenOff: a compressed stream does.
    """
    lines = _Lines(path)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    names: list[str] = []
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_LINE_BYTES))  # the process's bound was 128 KB
    while (record := _record(reader, lines, separator, len(names))) is not None:
        line, fields, reason = record
        if not names and (fields or reason):
            names = _header(path, fields, reason)
        elif reason:
            yield line, None, reason
        elif fields:
            yield line, json.dumps(dict(zip(names, fields, strict=True)), ensure_ascii=False), None


def _header(path: Path, fields: list[str], reason: str | None) -> list[str]:
    if reason:
        raise UserError(f"{path}: its header cannot be read ({reason}); mend its first line.")
    names = [name.strip() or f"column {number}" for number, name in enumerate(fields, start=1)]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: its header names {name[:40]!r} {times} times; name each column once.")
    return names


def _record(
    reader: Iterator[list[str]], lines: _Lines, separator: str, width: int
) -> tuple[int, list[str], str | None] | None:
    """Return line, fields and reason of the next record, None at the end; of a blank line no fields."""
    taken = lines.begin()
    try:
        fields = next(reader)
    except StopIteration:
        return None
    except (csv.Error, _TooLong):
        fields = []
    line, first, reason = taken[0][0], taken[0][1] or "", taken[0][2]
    if len(fields) == (width or len(fields)) > 0 and not any(why for _, _, why in taken):
        return line, fields, None
    lines.give_back(taken[1:])
    if reason or not first.strip():
        return line, [], reason
    fields = first.removesuffix("\r").split(separator)
    if len(fields) != (width or len(fields)):
        return line, [], f"it has {len(fields)} fields, and the header {width}"
    return line, fields, None


class _TooLong(Exception):
    """A quoted field does not end where it should."""


class _Lines:
    """The lines of a file, one at a time, of which the last ones can be given back."""

    def __init__(self, path: Path) -> None:
        self._source = _numbered(path)
        self._returned: deque[Record] = deque()
        self._taken: list[Record] = []
        self._bytes = 0

    def begin(self) -> list[Record]:
        """Return the list of what will be taken from now on."""
        self._taken, self._bytes = [], 0
        return self._taken

    def give_back(self, lines: list[Record]) -> None:
        """Hand these out again, before all others."""
        self._returned.extendleft(reversed(lines))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self._taken) == _MAX_LINES or self._bytes > MAX_LINE_BYTES:
            raise _TooLong
        record = self._returned.popleft() if self._returned else next(self._source)
        self._taken.append(record)
        self._bytes += len(record[1] or "")
        return f"{record[1] or ''}\n"


def _numbered(path: Path) -> Iterator[Record]:
    line = 1
    for lines in raw_lines(path):
        for text, reason in zip(*(one.to_pylist() for one in readable_lines(lines)), strict=True):
            yield line, (text or "").removesuffix("\n").removeprefix("\ufeff" if line == 1 else ""), reason
            line += 1
