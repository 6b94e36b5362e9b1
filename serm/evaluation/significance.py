"""How sure a difference of means over queries is: a paired randomisation test and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Numbers held at once; 8 bytes each.
_CELLS = 1 << 22


def randomisation_p(differences: Floats, permutations: int, seed: int) -> Floats:
    """Return the two-sided p of each column's mean difference, shape [m], by random sign flips.

    Under the null hypothesis that both systems are alike, each query's difference is as likely with the other
    sign (Smucker, Allan and Carterette 2007, section 3.2). The observed signs count as one of the permutations,
    so that p is never 0 and the test keeps its level (Phipson and Smyth 2010).

    Args:
        differences: challenger minus champion for each query and measure, shape [n, m], n > 0.
        permutations: random sign vectors; all columns see the same ones.
        seed: of the sign vectors.
    """
    rng = np.random.default_rng(seed)
    n = len(differences)
    total = differences.sum(axis=0)
    # Measures such as NDCG@1 take few values, so equal sums are common: rounding must not split them.
    bar = np.abs(total) - 1e-9 * np.abs(differences).sum(axis=0)
    extreme = np.zeros(differences.shape[1])
    for size in _chunks(permutations, n):
        flips = rng.integers(0, 256, (size, -(-n // 8)), dtype=np.uint8)
        kept = np.unpackbits(flips, axis=1, count=n).astype(np.float64)
        extreme += (np.abs(2 * (kept @ differences) - total) >= bar).sum(axis=0)
    p: Floats = (extreme + 1) / (permutations + 1)
    return p


def bootstrap_interval(values: Floats, resamples: int, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Return the low and high end of each column's mean, shape [m] each, by the bootstrap percentile method.

    Queries are drawn with replacement, whole rows at a time, so columns stay paired (Efron and Tibshirani 1993,
    chapter 13). With few queries the interval is too narrow: do not trust it below some 30.

    Args:
        values: one row a query, shape [n, m], n > 0.
        resamples: bootstrap samples of n queries.
        confidence: the interval's coverage, for example 0.95.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = []
    for size in _chunks(resamples, n):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(counts @ values / n)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def _chunks(total: int, width: int) -> Iterator[int]:
    most = max(1, _CELLS // width)
    for start in range(0, total, most):
        yield min(most, total - start)
