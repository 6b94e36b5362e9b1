"""Sequence packing: short texts side by side in rows as wide as the longest, so that little work goes into padding.

A token attends to its own text's tokens only, so what a text becomes does not depend on which others share its row
(Krell et al., "Efficient sequence packing without cross-contamination", arXiv 2107.02027).
"""

from __future__ import annotations

import numpy as np
import torch

from serm.relevance.interface import Indices


def pack(lengths: Indices) -> tuple[torch.Tensor, int]:
    """Lay ``n`` texts out in rows, the longest first, each in the first row with room for it.

    Returns:
        The slot of each token [sum of lengths], in the order of the texts, as a number in the flattened rows; and the
        rows' width.
    """
    width = int(lengths.max(initial=0))
    room: list[int] = []
    begin = np.zeros(len(lengths), np.int64)
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[text])
        row = next((number for number, free in enumerate(room) if free >= length), len(room))
        if row == len(room):
            room.append(width)
        begin[text] = (row + 1) * width - room[row]
        room[row] -= length
    return torch.from_numpy(np.repeat(begin, lengths) + within(lengths)), width


def within(lengths: Indices) -> Indices:
    """Return each token's place in its own text, from 0 [sum of lengths]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def attention_of(texts: torch.Tensor) -> torch.Tensor:
    """Return who attends to whom [rows, 1, width, width] for the number of each token's text [rows, width]."""
    return (texts[:, :, None] == texts[:, None, :])[:, None]


def mean_of(hidden: torch.Tensor, texts: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean over each text's tokens [count, dim] fp32; a text numbered ``count`` is padding."""
    flat, rows = texts.flatten(), hidden.float().flatten(0, 1)
    total = torch.zeros(count + 1, rows.shape[1], device=rows.device).index_add(0, flat, rows)
    sizes = torch.bincount(flat, minlength=count + 1)
    return total[:count] / sizes[:count, None]
