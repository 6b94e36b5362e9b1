"""The records of a text file of judgments: comments and blank lines out, quotes closed, fields cut."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

Separator = str | None
"""None: white space, any amount."""
_MAX_LINES = 100
"""Lines that one quoted field may span; a quote that is not closed by then was none."""
_COMMENTS = ("#", "//")


@dataclass
class Lines:
    """A text's lines, numbered from 1."""

    text: str
    _lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = self.text.replace("\r\n", "\n")
        # Not splitlines(): a query may hold U+2028.
        self._lines = text.split("\n") if "\n" in text else text.split("\r")

    def sample(self, count: int) -> list[str]:
        """Return the first lines that are neither blank nor a comment."""
        return [line for _, line in islice(self.plain(), count)]

    def plain(self) -> Iterator[tuple[int, str]]:
        """Return number and text of each line that is neither blank nor a comment."""
        for number, line in enumerate(self._lines, start=1):
            if line.strip() and not is_comment(line):
                yield number, line

    def records(self, separator: Separator, width: int) -> Iterator[tuple[int, list[str], str]]:
        """Return number, fields and text of each record; a quoted field may go over several lines.

        A quote that leads to anything but ``width`` fields is a character like any other.
        """
        at = 0
        while at < len(self._lines):
            line, number = self._lines[at], at + 1
            at += 1
            if not line.strip() or is_comment(line):
                continue
            if separator is not None and line.count('"') % 2:
                for end in range(at + 1, min(at + _MAX_LINES, len(self._lines)) + 1):
                    joined = "\n".join(self._lines[number - 1 : end])
                    if joined.count('"') % 2 == 0:
                        if len(_quoted(joined, separator)) == width:
                            line, at = joined, end
                        break
            yield number, split(line, separator, width), line


def is_comment(line: str) -> bool:
    """Whether a line begins with # or //; a field that does is put in quotes."""
    return line.lstrip().startswith(_COMMENTS)


def split(record: str, separator: Separator, width: int) -> list[str]:
    """Return the fields of a record, unquoted where that gives ``width`` fields."""
    if separator is None:
        return record.split()
    fields = _quoted(record, separator)
    return fields if len(fields) == width else record.split(separator)


def _quoted(record: str, separator: str) -> list[str]:
    """Return the fields as RFC 4180 reads them; none where a quote stands elsewhere than around a field."""
    try:
        (fields,) = csv.reader(io.StringIO(record, newline=""), delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        return []
    return fields


def best(
    lines: Lines, layouts: tuple[tuple[Separator, int], ...], is_rating: Callable[[str], bool]
) -> tuple[Separator, int]:
    """Return the layout, separator and number of fields, that most of the first lines have, the last field a rating.

    Where the lines have none of them, it is that of TREC's qrels.
    """
    sample = lines.sample(200)

    def fits(layout: tuple[Separator, int]) -> tuple[int, int]:
        fields = [split(line, *layout) for line in sample]
        right = [one for one in fields if len(one) == layout[1]]
        return sum(is_rating(one[-1]) for one in right), len(right)

    found = max(layouts, key=fits)
    return found if any(fits(found)) else (None, 4)
