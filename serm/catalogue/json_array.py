"""The elements of a JSON array of any size as texts, read in parts."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from serm.catalogue.table import Record
from serm.errors import UserError
from serm.escaping import is_storable
from serm.lines import MAX_LINE_BYTES, chunks

_SPACE = re.compile(r"[ \t\r\n]*")
_PART = 1 << 20


def elements(path: Path) -> Iterator[Record]:
    """Yield number, text and reason of each element of the array that is in the file ``path``.

    Raises:
        UserError: the array breaks off: of what comes after, nobody can say what it is.
        BrokenOff: a compressed stream does.
    """
    text, number = _Text(chunks(path)), 0
    try:
        text.take("[")
        while not (number == 0 and text.next() == "]"):
            element, number = text.element(), number + 1
            yield (number, element, None) if is_storable(element) else (number, None, "not UTF-8")
            if text.next() != ",":
                break
            text.take(",")
        text.take("]")
        text.take("")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise UserError(
            f"{path}: the JSON array breaks off after its element {number:,} ({reason}); mend the file, or write an "
            "object a line, of which only the bad ones are left out."
        ) from error


class _Text:
    """A text of which a part is held: from ``at`` on it is not taken yet."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._scan = json.JSONDecoder().raw_decode
        self._held, self._at = "", 0

    def next(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            space = _SPACE.match(self._held, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> None:
        """Take the character ``wanted``; empty: the end."""
        if (found := self.next()) != wanted:
            raise ValueError(f"{found or 'the end'!r} where {wanted or 'the end'!r} was to stand")
        self._at += len(wanted)

    def element(self) -> str:
        """Take the next value and return it as it is written."""
        self.next()
        while True:
            try:
                _, end = self._scan(self._held, self._at)
            except ValueError:
                if len(self._held) - self._at > MAX_LINE_BYTES or not self._more():
                    raise
                continue
            if end < len(self._held) or not self._more():  # at the end a number might go on
                element, self._at = self._held[self._at : end], end
                return element

    def _more(self) -> bool:
        """Read on; False at the end."""
        parts, size = [self._held[self._at :]], 0
        while size < _PART and (part := next(self._parts, None)) is not None:
            parts.append(self._decoder.decode(part))
            size += len(part)
        self._held, self._at = "".join(parts), 0
        return size > 0
