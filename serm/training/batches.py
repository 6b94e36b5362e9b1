"""Which rows go through the model together: batches of about one length, and parts of a batch that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from serm.settings import TrainingSettings

Rows = NDArray[np.int64]


def batches(lengths: Rows, groups: Rows, size: int, settings: TrainingSettings) -> Iterator[Rows]:
    """Yield batches of ``size`` rows for all epochs, the same for the same settings.

    Groups are sorted by their longest row (nearly equal ones at random), their rows cut into batches, and the batches
    shuffled. So a batch holds whole groups, but for those at its edges.

    Args:
        lengths: tokens of each row [n].
        groups: the number of each row's group, a query [n].
        size: of a batch; the last one of an epoch may have fewer.
        settings: ``epochs`` and ``seed`` are read.
    """
    generator = np.random.default_rng(settings.seed)
    longest = np.zeros(groups.max() + 1)
    np.maximum.at(longest, groups, lengths)
    for _ in range(settings.epochs):
        place = np.argsort(np.argsort(longest + 3 * generator.random(len(longest)), kind="stable"), kind="stable")
        order = np.argsort(place[groups], kind="stable")
        cut = np.split(order, range(size, len(order), size))
        for number in generator.permutation(len(cut)):
            yield cut[number]


def parts(batch: Rows, groups: Rows, count: int) -> list[Rows]:
    """Cut ``batch`` between its groups into at most ``count`` parts of about one size.

    Args:
        batch: rows, those of a group beside each other.
        groups: the number of each row's group, for all rows.
        count: there are fewer parts where there are fewer groups.
    """
    borders = np.flatnonzero(np.diff(groups[batch])) + 1
    wanted = len(batch) * np.arange(1, count) / count
    nearest = np.abs(borders[:, None] - wanted).argmin(0) if len(borders) else []
    return np.split(batch, np.unique(borders[nearest])) if len(batch) else []
