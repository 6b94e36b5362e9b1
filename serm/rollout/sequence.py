"""Confidence sequences: intervals of a difference that hold at every look at once, so that looking early costs nothing.

A fixed-horizon test that is looked at daily calls 37 in a hundred equal pairs different along a ramp of four weeks
(benchmarks/results/rollout.json; 27 where its 28 looks add equally many users). These intervals cover the true
difference at all times together with probability 1 - alpha, in the limit of many users.

    >>> width = half_width(variance=0.01**2, prior=prior_variance(0.005**2, alpha=0.05), alpha=0.05)
    >>> round(width, 4)
    0.0323
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def half_width(variance: float | Floats, prior: float, alpha: float) -> float | Floats:
    """Return half the width of the interval around a difference whose estimate has ``variance`` now.

    The asymptotic confidence sequence of Waudby-Smith et al. (arXiv 2103.06476, theorem 2.2), which is the mixture
    sequential probability ratio test's too (Johari et al., arXiv 1512.04922): with V the variance of the estimate,

        h = sqrt(V (1 + V / prior) (ln(1 + prior / V) - 2 ln alpha))

    Args:
        variance: V > 0, of the difference's estimate, in the square of its unit; a number or an array.
        prior: variance > 0 of the normal mixture over the true difference, fixed before the first look.
        alpha: chance, 0 to 1, that any look's interval misses the true difference.
    """
    found = np.sqrt(variance * (1 + variance / prior) * (np.log1p(prior / variance) - 2 * math.log(alpha)))
    return float(found) if np.ndim(variance) == 0 else found


def prior_variance(variance: float, alpha: float) -> float:
    """Return the prior's variance that makes the interval narrow when the estimate's variance is ``variance``.

    That is at the number of users an experiment is planned for (arXiv 2103.06476, appendix B.2):
    ``prior = variance (-2 ln alpha + ln(-2 ln alpha) + 1)``; it comes within 1 % of the narrowest.
    """
    certain = -2 * math.log(alpha)
    return variance * (certain + math.log(certain) + 1)


def always_valid_p(difference: float, variance: float, prior: float) -> float:
    """Return the smallest alpha at which the interval around ``difference`` leaves 0 out: its p, valid at any look.

    It is ``half_width`` solved for alpha; 1 at most. The chance that it is ever at or below alpha is alpha where the
    true difference is 0 (Johari et al., arXiv 1512.04922).
    """
    log_p = 0.5 * (math.log1p(prior / variance) - difference**2 / (variance * (1 + variance / prior)))
    return math.exp(min(0.0, log_p))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return the p of several tests, adjusted so that the chance of any false one stays what it is (Holm, 1979)."""
    adjusted: dict[str, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p}


def benjamini_hochberg(p: Mapping[str, float]) -> dict[str, float]:
    """Return the p of many tests, adjusted so that of those at or below alpha a share of alpha is false (1995)."""
    if not p:
        return {}
    from scipy.stats import false_discovery_control  # here: the transformer, which only interleaves, has no scipy

    adjusted = false_discovery_control(list(p.values()))
    return {name: float(one) for name, one in zip(p, adjusted, strict=True)}


@dataclass(frozen=True)
class Interval:
    """What is known of a difference (challenger less control) at a look."""

    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, difference: float, variance: float, prior: float, alpha: float) -> Interval:
        """Return the interval of an estimate with this ``variance``; all of the line where nothing is known yet."""
        if not (math.isfinite(difference) and math.isfinite(variance)) or variance <= 0:
            return cls(math.nan, -math.inf, math.inf)
        width = float(half_width(variance, prior, alpha))
        return cls(difference, difference - width, difference + width)


def sample_ratio_p(counts: tuple[int, int], shares: tuple[float, float]) -> float:
    """Return the p of a sample ratio mismatch: Pearson's chi-squared test of users by variant against their shares.

    A small p (below 0.001) says that users were lost or counted twice in one variant: no metric may be read then.

    Args:
        counts: users seen in each variant, at least one in all.
        shares: the share of users each was to have, above 0; they need not sum to 1.

    Raises:
        ValueError: nobody was seen, or a share is not above 0.
    """
    total, of = sum(counts), sum(shares)
    if not total or min(shares) <= 0:
        raise ValueError("a sample ratio needs users, and a share above 0 for each variant")
    statistic = sum(
        (n - total * share / of) ** 2 / (total * share / of) for n, share in zip(counts, shares, strict=True)
    )
    from scipy.special import chdtrc

    return float(chdtrc(len(counts) - 1, statistic))
