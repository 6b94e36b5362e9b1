"""What users did with a pair, as a likelihood of its grade: clicks, dislikes and how long those who clicked stayed.

With g the grade, n the impressions that users examined (after the click model), k clicks, d dislikes, and m the mean of
the natural logarithm of c dwell times, all taken as independent given g:

    P(k, d, m | g) = BetaBinomial(k | n, a_g, b_g) BetaBinomial(d | n, a'_g, b'_g) Normal(m | mu_g, tau^2 + sigma^2 / c)

Pairs of one grade differ: how often they are clicked is beta distributed over pairs (so counts are beta-binomial:
Skellam, "A probability distribution derived from the binomial distribution", 1948), and a pair's own mean log dwell is
normal around mu_g with variance tau^2, a visit's around that with sigma^2. So a thousand impressions say more than ten,
and never all. The parameters are modes of a posterior: each grade starts from what all grades have together, and moves
away by as much as its own pairs ask for. A grade without seed pairs stays there: users then say nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize
from scipy.special import betaln

from serm.judging.judge import GRADES, Floats, Integers

_Prior = tuple[float, float]
"""Of the mean (its log odds) and of the concentration (its logarithm) of a beta distribution."""
_ALL: _Prior = (-2.0, 1.5)
"""Before any pair: a click in eight impressions, known as by four or five of them."""
_SPREAD = np.array([2.0, 1.0])
"""How far the mean and the concentration of all grades, and those of a grade from these, are expected to lie."""
_DWELL, _DWELL_SPREAD = 3.0, 1.0
"""Before any click: 20 seconds; how far a grade's mean log dwell is expected to lie from that of all."""


@dataclass(frozen=True)
class Counts:
    """What users did with n pairs; arrays [n], all 0 where nobody saw a pair."""

    impressions: Floats
    examined: Floats
    """The expected number of impressions that users looked at (see ``contracts.CLICK_ESTIMATES``)."""
    clicks: Floats
    disliked: Floats
    dwells: Floats
    log_dwell: Floats

    @classmethod
    def read(cls, estimates: pa.Table) -> Self:
        """Return those of CLICK_ESTIMATES, in its order."""
        return cls(*(estimates[name].to_numpy().astype(np.float64) for name in cls.__annotations__))

    @classmethod
    def of(cls, estimates: pa.Table, queries: list[str], locales: list[str], doc_ids: list[str]) -> Self:
        """Look the pairs up in CLICK_ESTIMATES."""
        keys = zip(*(estimates[name].to_pylist() for name in ("query", "locale", "doc_id")), strict=True)
        place = {key: row for row, key in enumerate(keys)}
        rows = np.array([place.get(key, -1) for key in zip(queries, locales, doc_ids, strict=True)], np.int64)
        columns = (np.append(estimates[name].to_numpy().astype(np.float64), 0.0) for name in cls.__annotations__)
        return cls(*(column[rows] for column in columns))

    def take(self, rows: Any) -> Counts:
        """Return the counts of these rows."""
        return Counts(*(column[rows] for column in vars(self).values()))

    @property
    def seen(self) -> Any:
        """[n], whether any user was shown the pair."""
        return self.impressions > 0


@dataclass(frozen=True)
class UserLikelihood:
    """The fitted parameters, by grade."""

    clicks: Floats
    """[4, 2], a and b."""
    dislikes: Floats
    """[4, 2], a' and b'."""
    dwell: Floats
    """[4], mu: the mean log dwell, in log seconds."""
    tau2: float
    sigma2: float

    @classmethod
    def fit(cls, counts: Counts, grades: Integers) -> Self:
        """Fit to pairs of known ``grades`` [n] that users were shown.

        Raises:
            ValueError: there is no pair.
        """
        if not len(grades):
            raise ValueError("no pairs")
        trials = np.maximum(counts.examined, counts.clicks), np.maximum(counts.examined, counts.disliked)
        clicks = _by_grade(counts.clicks, trials[0], grades)
        return cls(clicks, _by_grade(counts.disliked, trials[1], grades), *_dwell(counts, grades))

    def log_likelihood(self, counts: Counts) -> Floats:
        """Return [n, 4]: log P(counts | grade), up to a term that is the same for all grades; 0 where nobody saw it."""
        clicked = _beta_binomial(counts.clicks, np.maximum(counts.examined, counts.clicks), self.clicks)
        disliked = _beta_binomial(counts.disliked, np.maximum(counts.examined, counts.disliked), self.dislikes)
        dwelt = counts.dwells[:, None]
        variance = self.tau2 + self.sigma2 / np.maximum(dwelt, 1)
        mean = counts.log_dwell[:, None] / np.maximum(dwelt, 1)
        stayed = np.where(dwelt > 0, -0.5 * (mean - self.dwell) ** 2 / variance, 0.0)
        total: Floats = clicked + disliked + stayed
        return total

    def figures(self) -> dict[str, Any]:
        """Return by grade: ``click_rate`` and ``dislike_rate`` of examined impressions, the ``..._concentration`` of
        each (a + b: as from so many impressions) and ``dwell_seconds`` (the exponential of the mean logarithm)."""
        found = {}
        for grade in range(GRADES):
            one: dict[str, float] = {}
            for name, (a, b) in (("click", self.clicks[grade]), ("dislike", self.dislikes[grade])):
                one |= {f"{name}_rate": round(a / (a + b), 5), f"{name}_concentration": round(a + b, 3)}
            found[str(grade)] = one | {"dwell_seconds": round(float(np.exp(self.dwell[grade])), 2)}
        return {"by_grade": found, "tau2": round(self.tau2, 4), "sigma2": round(self.sigma2, 4)}


def _beta_binomial(ones: Floats, trials: Floats, parameters: Floats) -> Floats:
    """Return [n, grades], without the binomial coefficient, which no grade changes."""
    a, b = parameters.T
    ones, rest = ones[:, None], (trials - ones)[:, None]
    value: Floats = betaln(ones + a, rest + b) - betaln(a, b)
    return value


def _by_grade(ones: Floats, trials: Floats, grades: Integers) -> Floats:
    """Fit a beta distribution to all pairs, and from there one to each grade's: [4, 2]."""
    everything = _fit_beta(ones, trials, np.array(_ALL))
    of_grades = [_fit_beta(ones[grades == g], trials[grades == g], everything) for g in range(GRADES)]
    return np.array([_shape(place) for place in of_grades])


def _shape(place: Floats) -> tuple[float, float]:
    mean, concentration = 1 / (1 + np.exp(-place[0])), np.exp(place[1])
    return float(mean * concentration), float((1 - mean) * concentration)


def _fit_beta(ones: Floats, trials: Floats, start: Floats) -> Floats:
    """Return the mode of the mean's log odds and the concentration's logarithm, normal around ``start``."""

    def loss(place: Floats) -> float:
        likelihood = _beta_binomial(ones, trials, np.array([_shape(place)])).sum()
        return float(((place - start) ** 2 / _SPREAD**2).sum() / 2 - likelihood)

    return _least(loss, start, [(-15.0, 15.0), (-5.0, 10.0)])


def _dwell(counts: Counts, grades: Integers) -> tuple[Floats, float, float]:
    """Return mu [4], tau^2 and sigma^2: the likeliest variances, with each grade's mean at its mode given them."""
    clicked = counts.dwells > 0
    dwells, grade = counts.dwells[clicked], grades[clicked]
    mean = counts.log_dwell[clicked] / dwells

    def means(variance: Floats) -> Floats:
        weight = 1 / variance
        of_all = (weight @ mean + _DWELL) / (weight.sum() + 1)
        per = np.bincount(grade, weight, GRADES)
        moved: Floats = (np.bincount(grade, weight * mean, GRADES) + of_all / _DWELL_SPREAD**2) / (
            per + 1 / _DWELL_SPREAD**2
        )
        return moved

    def loss(place: Floats) -> float:
        variance = np.exp(place[0]) + np.exp(place[1]) / dwells
        apart = mean - means(variance)[grade]
        prior = ((place - start) ** 2).sum() / 2
        return float((apart**2 / variance + np.log(variance)).sum() / 2 + prior)

    start = np.log([0.1, 1.0])
    tau2, sigma2 = np.exp(_least(loss, start, [(-7.0, 3.0), (-4.0, 4.0)]))
    return means(tau2 + sigma2 / dwells), float(tau2), float(sigma2)


def _least(loss: Callable[[Floats], float], start: Floats, bounds: list[tuple[float, float]]) -> Floats:
    found: Floats = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return found
