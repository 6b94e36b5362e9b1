"""Sequence packing: short texts side by side in rows as wide as the longest, so that little work goes into padding.

A token attends to its own text's tokens only, so what a text becomes does not depend on which others share its row
(Krell et al., "Efficient sequence packing without cross-contamination", arXiv 2107.02027).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serm.relevance.interface import Indices

Count = TypeVar("Count", int, Indices)

AT_ONCE = 256
"""Texts that ``packed`` looks for room for together: its time grows with their square."""


@dataclass(frozen=True)
class Packed:
    """Texts of one batch, packed."""

    chosen: Indices
    """[texts], which ones."""
    text: Indices
    """[rows, width], which of the chosen each place belongs to; their number where it is padding."""
    token: Indices
    """[rows, width], which of its text's tokens stands there; 0 where it is padding."""
    places: Indices
    """[texts, longest], where each text's tokens are in the flattened rows; 0 behind its end."""
    mask: NDArray[np.bool_]
    """[texts, longest], false behind a text's end."""


def packed(lengths: Indices, places: int) -> Iterator[Packed]:
    """Yield texts of ``lengths`` [n] tokens in batches of at most ``places`` places (at least one row)."""
    for start in range(0, len(lengths), AT_ONCE):
        part = lengths[start : start + AT_ONCE]
        slots, width = pack(part)
        first = slots[np.cumsum(part) - part] // width  # the row that a text is in
        rows = max(1, places // width)
        for top in range(0, int(first.max()) + 1, rows):
            here = np.flatnonzero((first >= top) & (first < top + rows))
            yield _batch(
                start + here,
                slots[np.isin(np.repeat(np.arange(len(part)), part), here)] - top * width,
                part[here],
                width,
            )


def _batch(chosen: Indices, slots: Indices, lengths: Indices, width: int) -> Packed:
    shape = (int(slots.max()) // width + 1, width)
    text, token = np.full(shape, len(chosen)), np.zeros(shape, np.int64)
    text.flat[slots], token.flat[slots] = np.repeat(np.arange(len(chosen)), lengths), within(lengths)
    mask = np.arange(lengths.max()) < lengths[:, None]
    places = np.zeros(mask.shape, np.int64)
    places[mask] = slots
    return Packed(chosen, text, token, places, mask)


def pack(lengths: Indices, multiple: int = 1) -> tuple[Indices, int]:
    """Lay ``n`` texts out in rows, the longest first, each in the first row with room for it.

    Returns:
        The slot of each token [sum of lengths], in the order of the texts, as a number in the flattened rows; and the
        rows' width, a ``multiple`` of that.
    """
    width = up(int(lengths.max(initial=0)), multiple)
    room: list[int] = []
    begin = np.zeros(len(lengths), np.int64)
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[text])
        row = next((number for number, free in enumerate(room) if free >= length), len(room))
        if row == len(room):
            room.append(width)
        begin[text] = (row + 1) * width - room[row]
        room[row] -= length
    return np.repeat(begin, lengths) + within(lengths), width


def few(rows: int) -> int:
    """Return ``rows`` or up to an eighth more, so that batches have few shapes."""
    return up(rows, 1 << max(0, rows.bit_length() - 4))


def up(count: Count, multiple: int) -> Count:
    """Round ``count`` (a number, or each of many) up to a ``multiple``."""
    return -(-count // multiple) * multiple


def within(lengths: Indices) -> Indices:
    """Return each token's place in its own text, from 0 [sum of lengths]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
