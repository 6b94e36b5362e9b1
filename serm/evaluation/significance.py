"""How sure a difference of means over queries is: a paired test, intervals, and what could have been seen."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "less"]

POWER = 0.8
"""The chance that the minimum detectable effect, were it true, is found."""
LARGE = 5000
"""Queries from which on the bootstrap's quantiles are computed and not drawn."""

#: Numbers held at once; 8 bytes each.
_CELLS = 1 << 20


def randomisation_p(
    differences: Floats, permutations: int, seed: int, alternative: Alternative = "two-sided"
) -> Floats:
    """Return the p of each column's mean difference, shape [m], by random sign flips.

    Under the null hypothesis that both systems are alike, each query's difference is as likely with the other
    sign (Smucker, Allan and Carterette 2007, section 3.2). The observed signs count as one of the permutations,
    so that p is never 0 and the test keeps its level (Phipson and Smyth 2010).

    Args:
        differences: challenger minus champion for each query and measure, shape [n, m], n > 0.
        permutations: random sign vectors; all columns see the same ones.
        seed: of the sign vectors.
        alternative: ``two-sided``, or ``less``: the mean is below 0.
    """
    rng = np.random.default_rng(seed)
    differences = differences[differences.any(axis=1)]  # a query that both rank alike has no sign to flip
    n = len(differences)
    total = differences.sum(axis=0)
    # Measures such as NDCG@1 take few values, so equal sums are common: rounding must not split them.
    slack = 1e-9 * np.abs(differences).sum(axis=0)
    extreme = np.zeros(differences.shape[1])
    for size in _chunks(permutations, n):
        flips = rng.integers(0, 256, (size, -(-n // 8)), dtype=np.uint8)
        kept = np.unpackbits(flips, axis=1, count=n).astype(np.float64)
        flipped = 2 * (kept @ differences) - total
        extreme += (
            flipped <= total + slack if alternative == "less" else np.abs(flipped) >= np.abs(total) - slack
        ).sum(axis=0)
    p: Floats = (extreme + 1) / (permutations + 1)
    return p


def bootstrap_interval(values: Floats, resamples: int, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Return the low and high end of each column's mean, shape [m] each, by the bootstrap percentile method.

    Queries are drawn with replacement, whole rows at a time, so columns stay paired (Efron and Tibshirani 1993,
    chapter 13). With few queries the interval is too narrow: do not trust it below some 30. From ``LARGE`` queries on
    nothing is drawn: the bootstrap's mean is a sum of n independent draws from the sample, whose cumulants are known,
    and Cornish and Fisher's expansion gives its quantiles (Hall 1992, section 2.5), closer than resamples would.

    Args:
        values: one row a query, shape [n, m], n > 0.
        resamples: bootstrap samples of n queries.
        confidence: the interval's coverage, for example 0.95.
        seed: of the draws.
    """
    tail = (1 - confidence) / 2
    if len(values) >= LARGE:
        low, high = (_bootstrap_quantile(values, q) for q in (tail, 1 - tail))
        return low, high
    means = [counts @ values / len(values) for counts in bootstrap_counts(len(values), resamples, seed)]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_counts(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of ``n`` queries is drawn in each resample, in chunks of shape [some resamples, n]."""
    rng = np.random.default_rng(seed)
    for size in _chunks(resamples, n):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


def holm(p: Floats) -> Floats:
    """Return the p adjusted for their number, shape [k]: those below alpha hold at a family-wise alpha (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def detectable_effect(differences: Floats, alpha: float) -> Floats:
    """Return each column's minimum detectable effect, shape [m].

    That is the true mean difference that a two-sided test at ``alpha`` finds with chance ``POWER``: (z[1 - alpha / 2] +
    z[POWER]) times the standard error. A smaller one may well go unseen, so a test that finds nothing does not say
    that the systems are equal. ``differences`` has shape [n, m]; with one query nothing is found (infinite).
    """
    n = len(differences)
    if n < 2:
        return np.full(differences.shape[1], np.inf)
    effect: Floats = _quantiles(alpha) * differences.std(axis=0, ddof=1) / np.sqrt(n)
    return effect


def effect_of(deviation: float, n: int, alpha: float) -> float:
    """Return ``detectable_effect`` of ``n`` queries whose differences have the standard deviation ``deviation``."""
    return float(_quantiles(alpha) * deviation / np.sqrt(n)) if n > 1 else float("inf")


def deviation_of(effect: float, n: int, alpha: float) -> float:
    """Return the standard deviation of ``n`` differences whose ``detectable_effect`` is ``effect``."""
    return float(effect * np.sqrt(n) / _quantiles(alpha))


def queries_needed(deviation: float, effect: float, alpha: float) -> int:
    """Return how many queries find ``effect``, above 0, with chance ``POWER``: then ``effect_of`` is at most that."""
    return max(2, int(np.ceil((_quantiles(alpha) * deviation / effect) ** 2 - 1e-9)))


def _quantiles(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(POWER)


def detectable_beyond(detectable: float, alpha: float, tests: int) -> float:
    """Return what a one-sided test, one of ``tests`` that Holm adjusts, finds with chance ``POWER``.

    ``detectable`` is ``detectable_effect`` of the same queries at the same ``alpha``; the adjustment is that of the
    smallest p, so it holds whatever the other tests find.
    """
    normal = NormalDist()
    two_sided, one_sided = (normal.inv_cdf(1 - level) for level in (alpha / 2, alpha / tests))
    power = normal.inv_cdf(POWER)
    return detectable * (one_sided + power) / (two_sided + power)


def _bootstrap_quantile(values: Floats, q: float) -> Floats:
    n, mean = len(values), values.mean(axis=0)
    spread = values.std(axis=0)
    standard = np.divide(values - mean, spread, out=np.zeros_like(values), where=spread > 0)
    skew = (standard**3).mean(axis=0) / np.sqrt(n)
    kurtosis = ((standard**4).mean(axis=0) - 3) / n
    z = NormalDist().inv_cdf(q)
    w = z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * kurtosis / 24 - (2 * z**3 - 5 * z) * skew**2 / 36
    found: Floats = mean + spread / np.sqrt(n) * w
    return found


def _chunks(total: int, width: int) -> Iterator[int]:
    most = max(1, _CELLS // max(1, width))
    for start in range(0, total, most):
        yield min(most, total - start)
