"""What users did not click below their last click, with equal remainders of pages taken together.

A user who clicks nothing more was content, or gave up somewhere, or saw the rest and did not like it. How likely that
is depends on all documents below, so they cannot be counted one by one. But what remains of a page below a row is the
same for every page that ends alike. So remainders are numbered from the last row up, each as a document, the step down
to the next row, and the number of what remains there: there are fewer of them than rows, and each is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from serm.clicks.pages import Array, Pages, sums

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Chains:
    """Different remainders of pages, those of one row first, then those of two, and so on; N in all.

    Attributes:
        pair: [N], the pair of a remainder's first row.
        below: [N], the number of what remains from the next row on; its own number where there is none.
        step: [N], how many positions down the next row stands, as an index of ``steps``.
        steps: the different steps, in positions: 0 where there is no next row, 1, and more where rows lack.
        level: [longest + 1], where the remainders of each length begin, and N.
        last: the remainders that begin with the last click of a page and go on, so that they tell whether it contented.
        clicked: how many pages each of ``last`` stands for.
        start: the remainders with which pages without a click begin, as three arrays of equal length: the number, how
            many positions below the log's first (an index of ``steps``), and how many pages.
    """

    pair: Numbers
    below: Numbers
    step: Numbers
    steps: Numbers
    level: Numbers
    last: Numbers
    clicked: Array
    start: tuple[Numbers, Numbers, Array]

    @cached_property
    def levels(self) -> list[tuple[slice, slice, Numbers]]:
        """For each length from two rows on: its remainders, those of one row less, and ``below`` within these."""
        ends = zip(self.level, self.level[1:], self.level[2:], strict=False)
        return [(slice(mid, high), slice(low, mid), self.below[mid:high] - low) for low, mid, high in ends]

    @cached_property
    def even(self) -> bool:
        """Whether every next row stands as far below: no row is missing."""
        steps = self.step[self.level[1] :]
        return bool((steps == steps[:1]).all())

    def by_step(self, values: Array) -> Array:
        """Return the sum of ``values`` [N], which are 0 for those of one row, over the remainders of each step."""
        if not self.even:
            return sums(self.step, values, len(self.steps))
        total = np.zeros(len(self.steps))
        total[self.step[-1]] = values.sum()
        return total

    @classmethod
    def of(cls, pages: Pages) -> Chains:
        """Number what remains of ``pages`` from the last click on, or from the top where there is none."""
        top, end = pages.start[:-1], pages.start[1:]
        begin = np.maximum(pages.last_click, top)
        longest_first = np.argsort(begin - end, kind="stable")
        end, length = end[longest_first], (end - begin)[longest_first]
        number = np.zeros(len(end), dtype=np.int64)  # of the remainder that the loop has reached on each page
        parts: list[tuple[Numbers, ...]] = []
        level = [0, 0]
        for rows in range(1, int(length.max()) + 1):
            pages_left = int(np.searchsorted(-length, -rows, side="right"))
            row = end[:pages_left] - rows
            pair, below = pages.pair[row].astype(np.int64), number[:pages_left]
            step = pages.position[row + 1] - pages.position[row] if rows > 1 else np.zeros_like(row)
            first, group = _groups(below - level[-2], pair, step)
            parts.append((pair[first], below[first], step[first]))
            number[:pages_left] = level[-1] + group
            level.append(level[-1] + len(first))
        pair, below, step = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        below[: level[2]] = np.arange(level[2])

        seen = pages.seen[longest_first].astype(np.float64)
        has_click = (pages.last_click >= top)[longest_first]
        clicked = sums(number[has_click], seen[has_click], len(pair))
        last = np.flatnonzero(clicked[level[2] :]) + level[2]
        number, seen = number[~has_click], seen[~has_click]
        late = (pages.position[top] - pages.first)[longest_first][~has_click].astype(np.int64)
        first, group = _groups(number, late)
        steps, index = np.unique(np.concatenate([step, late[first]]), return_inverse=True)
        start = number[first], index[len(step) :], sums(group, seen, len(first))
        return cls(pair, below, index[: len(step)], steps, np.array(level[1:]), last, clicked[last], start)


def _groups(*keys: Numbers) -> tuple[Numbers, Numbers]:
    """Return for each different tuple, in sorted order, where one of it stands, and [n] the group of each tuple."""
    key = np.zeros(len(keys[0]), dtype=np.int64)
    for column in keys:
        column = column - column.min(initial=0)
        if int(key.max(initial=0) + 1) * int(column.max(initial=0) + 1) > 2**63:  # numbered anew, both are below n
            key, column = (np.unique(values, return_inverse=True)[1] for values in (key, column))
        key = key * (column.max(initial=0) + 1) + column
    # Not np.unique: it sorts stably, which takes three times as long.
    order = np.argsort(key)
    ordered = key[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(key)]
    group = np.empty_like(key)
    group[order] = np.cumsum(new) - 1
    return order[new], group
