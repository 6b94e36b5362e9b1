"""Which rows go through the model together: batches of about one length, and parts of a batch that fit in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from serm.settings import TrainingSettings

Rows = NDArray[np.int64]


def batches(
    lengths: Rows, groups: Rows, size: int, settings: TrainingSettings, steps: int | None = None
) -> Iterator[Rows]:
    """Yield batches of at most ``size`` rows for all epochs, or as many as ``steps``; the same for the same settings.

    Groups are sorted by their longest row (nearly equal ones at random), batches filled with whole ones, and the
    batches shuffled. Only a group of more than ``size`` rows is cut.

    Args:
        lengths: tokens of each row [n].
        groups: the number of each row's group, a query [n].
        size: of a batch.
        settings: ``seed`` is read, and without ``steps`` ``epochs``.
        steps: how many batches; the rows come round as often as that takes.
    """
    generator = np.random.default_rng(settings.seed)
    rounds = range(settings.epochs) if steps is None else itertools.count()
    return itertools.islice((batch for _ in rounds for batch in _epoch(lengths, groups, size, generator)), steps)


def _epoch(lengths: Rows, groups: Rows, size: int, generator: np.random.Generator) -> Iterator[Rows]:
    """Yield batches that hold each row once."""
    longest = np.zeros(groups.max() + 1)
    np.maximum.at(longest, groups, lengths)
    turn = np.argsort(longest + 3 * generator.random(len(longest)), kind="stable")
    order = np.argsort(np.argsort(turn, kind="stable")[groups], kind="stable")
    cut = np.split(order, _borders(np.bincount(groups)[turn], size))
    return (cut[number] for number in generator.permutation(len(cut)))


def _borders(sizes: Rows, size: int) -> list[int]:
    """Return where to cut rows of groups of ``sizes`` so that no part has more than ``size``."""
    borders, end, filled = [], 0, 0
    for group in sizes.tolist():
        if filled and filled + group > size:
            borders.append(end)
            filled = 0
        within = range(end + size, end + group, size)
        borders += within
        filled += group - size * len(within)
        end += group
    return borders


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
