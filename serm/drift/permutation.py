"""Permutation tests on sums over users: whole users change windows at random, and chance shows what it can do.

If users behave alike in all windows, each assignment of users to windows is as likely as the one seen, so p is exact
however the searches of one user depend on each other (Good, Permutation, Parametric and Bootstrap Tests of
Hypotheses, 2005, chapter 3). Someone who is a user of two windows counts as two users: that makes p larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

Floats: TypeAlias = NDArray[Any]
#: [users, features], dense or sparse.
Matrix: TypeAlias = Any
#: Sums over the users of this window and of the earlier ones, [n, features] each -> distances [n], large is far.
Statistic = Callable[[Floats, Floats], Floats]

#: Numbers held at once; 4 bytes each.
_CELLS = 1 << 23


@dataclass(frozen=True)
class Outcome:
    """How far a window lies from the earlier ones, beside what chance does."""

    value: float
    expected: float
    """The mean of the permuted windows."""
    p: float
    usual: float | None
    """The farthest that an earlier window lies from the others together; null where there are fewer than two."""


class Permutations:
    """Random assignments of users to this window and the earlier ones; the seen one is the first."""

    def __init__(self, window: NDArray[np.int64], count: int, seed: int) -> None:
        """Draw ``count`` assignments; ``window`` [users] has each user's window, this one the last."""
        rng = np.random.default_rng(seed)
        self.window = window
        now = window == window.max()
        drawn = np.zeros((count + 1, len(window)), np.float32)
        drawn[0] = now
        for row in drawn[1:]:
            row[rng.permutation(len(window))[: now.sum()]] = 1
        self._now = drawn

    def values(self, features: Matrix, statistic: Statistic) -> Floats:
        """Return the statistic of the seen assignment and of the random ones, [1 + permutations]."""
        total = np.asarray(features.sum(axis=0), np.float32).reshape(1, -1)
        size = max(1, _CELLS // total.shape[1])
        found = []
        for start in range(0, len(self._now), size):
            now = np.asarray((features.T @ self._now[start : start + size].T).T)
            found.append(statistic(now, total - now))
        return np.concatenate(found)

    def by_window(self, features: Matrix) -> Floats:
        """Return the sums over the users of each window, [windows, features]."""
        member = (self.window[:, None] == np.arange(self.window.max() + 1)).astype(np.float32)
        return np.asarray((features.T @ member).T)

    def test(self, features: Matrix, statistic: Statistic, seasonal: bool = True) -> Outcome:
        """Test whether this window lies farther from the earlier ones than chance explains (one-sided).

        Args:
            features: [users, features] what is summed over users.
            statistic: the distance.
            seasonal: whether to compute ``usual`` too.
        """
        values = self.values(features, statistic)
        usual = None
        if seasonal and self.window.max() >= 2:
            earlier = self.by_window(features)[:-1]
            usual = float(statistic(earlier, earlier.sum(axis=0) - earlier).max())
        return Outcome(float(values[0]), float(values[1:].mean()), p_value(values), usual)


def p_value(values: Floats) -> float:
    """Return the share of ``values`` that are at least the first, itself counted (Phipson and Smyth 2010)."""
    slack = 1e-6 * abs(float(values[0]))  # equal counts must tie, whatever the order of their sum
    return float(np.mean(values >= values[0] - slack))


def sums(user: NDArray[np.int64], feature: NDArray[np.int64], users: int, weight: Floats | None = None) -> csr_array:
    """Return how often each user has each feature, or the sum of the weights: a sparse [users, features] matrix."""
    ones = np.ones(len(user), np.float32) if weight is None else weight.astype(np.float32)
    width = int(feature.max(initial=-1)) + 1
    return coo_array((ones, (user, feature)), shape=(users, max(1, width))).tocsr()


def moved(now: Floats, before: Floats) -> Floats:
    """Total variation distance of two mixes: the share that stands elsewhere, 0 to 1."""
    shares = (part / np.maximum(part.sum(axis=1, keepdims=True), 1) for part in (now, before))
    distance: Floats = np.abs(np.subtract(*shares)).sum(axis=1) / 2
    return distance


def absent(now: Floats, before: Floats) -> Floats:
    """Share of this window's count that falls on features which the earlier ones lack, 0 to 1."""
    share: Floats = (now * (before == 0)).sum(axis=1) / np.maximum(now.sum(axis=1), 1)
    return share


def rate_change(now: Floats, before: Floats) -> Floats:
    """Change of a rate, relative to the earlier one; the columns are how often, and of how many."""
    late, early = (part[:, 0] / np.maximum(part[:, 1], 1) for part in (now, before))
    return np.abs(late - early) / np.maximum(early, 1e-9)


def rate_difference(now: Floats, before: Floats) -> Floats:
    """Difference of two rates, 0 to 1; the columns as in ``rate_change``."""
    late, early = (part[:, 0] / np.maximum(part[:, 1], 1) for part in (now, before))
    return np.abs(late - early)
