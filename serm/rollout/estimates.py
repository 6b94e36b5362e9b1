"""A metric's difference between challenger and control, from sums over users: the delta method and CUPED."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serm.rollout.metrics import METRICS, covariate
from serm.rollout.sequence import Interval, always_valid_p, prior_variance

Floats = NDArray[np.float64]
PRIOR_ALPHA = 0.05
"""At which the mixture is sized, whatever ``rollout.alpha`` is."""
Row = Mapping[str, Any]
"""A row of ``metrics.moments``."""


@dataclass(frozen=True)
class Estimate:
    """A metric at a look. Differences are the challenger's value less the control's."""

    metric: str
    users: tuple[int, int]
    """Of challenger and control."""
    challenger: float
    control: float
    variance: float
    """Of the difference."""
    explained: float
    """Share of the variance that users' habits before the start took away (CUPED), 0 to 1."""

    @property
    def difference(self) -> float:
        """The challenger's value less the control's."""
        return self.challenger - self.control

    def interval(self, alpha: float, planned_users: int) -> Interval:
        """Return the interval of the difference that holds at all looks together, narrowest at ``planned_users``."""
        return Interval.of(self.difference, self.variance, self._prior(planned_users), alpha)

    def p(self, beyond: float, side: int, planned_users: int) -> float:
        """Return the one-sided p, valid at any look, that the difference lies on one side of a value.

        Args:
            beyond: the value, such as 0.
            side: 1 tests that the difference is above the value, -1 that it is below.
            planned_users: as in ``interval``.
        """
        away = side * (self.difference - beyond)
        if not (math.isfinite(away) and self.variance > 0) or away <= 0:
            return 1.0
        return min(1.0, always_valid_p(away, self.variance, self._prior(planned_users)))

    def _prior(self, planned_users: int) -> float:
        """Variance of the mixture: the paper's rho, which N* alone fixes, in units of one pair of users' variance."""
        return prior_variance(self.variance * self._pairs / planned_users, PRIOR_ALPHA)

    @property
    def _pairs(self) -> float:
        challenger, control = self.users
        return 2 / (1 / challenger + 1 / control)


def estimate(rows: Sequence[Row], metric: str) -> Estimate | None:
    """Return what the sums by stage and group (``metrics.moments``) say of a metric; None without users to compare.

    Stages of the ramp are strata: users first seen in one are compared with each other, and a stage counts by its
    users. Within them the ratio's variance comes from the delta method, and CUPED takes away what the ratio before the
    start explains (Deng et al., WSDM 2013). A stage that has not two users in each group is left out.
    """
    names = [METRICS[metric].numerator, METRICS[metric].denominator, *(covariate(metric) or ())]
    strata = _strata(rows, names)
    if not strata:
        return None
    total = sum(group.n for pair in strata for group in pair)
    weights = [sum(group.n for group in pair) / total for pair in strata]
    means = [np.asarray(weights) @ np.array([pair[side].mean for pair in strata]) for side in (0, 1)]
    if min(mean[1] for mean in means) <= 0:
        return None
    values = [float(mean[0] / mean[1]) for mean in means]
    plain = [np.array([1 / mean[1], -value / mean[1]]) for value, mean in zip(values, means, strict=True)]
    variance = _variance(strata, weights, plain, 2)
    theta, habits = _theta(strata, weights, means)
    adjusted = variance
    if theta:
        slopes = [np.concatenate([one, -theta * other]) for one, other in zip(plain, habits, strict=True)]
        adjusted = _variance(strata, weights, slopes, 4)
        ratios = [mean[2] / mean[3] for mean in means]
        pooled = sum(ratios) / 2
        values = [value - theta * (ratio - pooled) for value, ratio in zip(values, ratios, strict=True)]
    users = (sum(pair[0].n for pair in strata), sum(pair[1].n for pair in strata))
    explained = 1 - adjusted / variance if variance > 0 else 0.0
    return Estimate(metric, users, float(values[0]), float(values[1]), adjusted, float(explained))


@dataclass(frozen=True)
class _Group:
    n: int
    mean: Floats
    covariance: Floats


def _strata(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[_Group, _Group]]:
    """Return challenger and control of each stage that has two users of both."""
    groups = {(row["stage"], bool(row["challenger"])): _group(row, names) for row in rows if row["n"] > 1}
    stages = sorted({stage for stage, _ in groups})
    return [
        (groups[stage, True], groups[stage, False])
        for stage in stages
        if (stage, True) in groups and (stage, False) in groups
    ]


def _group(row: Row, names: Sequence[str]) -> _Group:
    n = int(row["n"])
    mean = np.array([row[name] for name in names]) / n
    products = np.array([row[pair] for pair in _products(tuple(names))]).reshape(len(names), -1) / n
    return _Group(n, mean, (products - mean[:, None] * mean) * n / (n - 1))


@cache
def _products(names: tuple[str, ...]) -> list[str]:
    """Return the columns of ``metrics.moments`` that hold the products of all pairs of names."""
    return ["*".join(sorted((a, b))) for b in names for a in names]


def _variance(
    strata: Sequence[tuple[_Group, _Group]], weights: Sequence[float], slopes: Sequence[Floats], size: int
) -> float:
    """Return the variance of the difference of a function with these ``slopes`` (by side) of the groups' means."""
    return float(
        sum(
            weight**2 * slope @ group.covariance[:size, :size] @ slope / group.n
            for weight, pair in zip(weights, strata, strict=True)
            for group, slope in zip(pair, slopes, strict=True)
        )
    )


def _theta(
    strata: Sequence[tuple[_Group, _Group]], weights: Sequence[float], means: Sequence[Floats]
) -> tuple[float, list[Floats]]:
    """Return CUPED's coefficient over both groups, 0 where nothing is known of users before, and the habits' slopes."""
    if len(means[0]) < 4 or min(mean[3] for mean in means) <= 0:
        return 0.0, []
    ratio, habit = (sum(m[i] for m in means) / sum(m[i + 1] for m in means) for i in (0, 2))
    y = np.array([1.0, -ratio]) / (sum(m[1] for m in means) / 2)
    x = np.array([1.0, -habit]) / (sum(m[3] for m in means) / 2)
    covariance = np.sum(
        [w**2 * group.covariance / group.n for w, pair in zip(weights, strata, strict=True) for group in pair], axis=0
    )
    against = float(x @ covariance[2:, 2:] @ x)
    theta = float(y @ covariance[:2, 2:] @ x) / against if against > 0 else 0.0
    return theta, [np.array([1 / mean[3], -mean[2] / mean[3] ** 2]) for mean in means]
