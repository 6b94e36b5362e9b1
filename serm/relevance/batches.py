"""Texts of about one length, to go through an encoder together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from serm.relevance.interface import Indices, length_batches
from serm.relevance.packing import few, up

STEADY_TOKENS = 512
"""Tokens of a batch whose texts' bits must not depend on what else is encoded; fewer are slower a token."""
LENGTH_MULTIPLE = 4
"""Texts of any batch are padded to a multiple of this."""


def longest_batches(lengths: Indices, tokens: int) -> Iterator[tuple[Indices, int, int]]:
    """Yield batches of texts as ``length_batches`` does, with the number and the length to fill them up to.

    So they have few shapes: torch makes its kernels for each shape anew, and keeps them.
    """
    for batch in length_batches(lengths, tokens):
        yield batch, few(len(batch)), up(int(lengths[batch[0]]), LENGTH_MULTIPLE)


def steady_batches(lengths: Indices) -> Iterator[tuple[Indices, int, int]]:
    """Yield batches of texts with the number and the length to fill them up to: all of one length have one shape.

    Kernels are chosen by shape, and another one sums in another order: so a text's bits do not depend on what else is
    encoded, and not on what is kept from before.
    """
    widths = up(lengths, LENGTH_MULTIPLE)
    for width in np.unique(widths).tolist():
        size = max(1, STEADY_TOKENS // width)
        of_width = np.flatnonzero(widths == width)
        for begin in range(0, len(of_width), size):
            yield of_width[begin : begin + size], size, width
