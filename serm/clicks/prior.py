"""What is believed of a pair before it is seen: a beta distribution over all pairs of the log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from serm.clicks.pages import Array
from serm.settings import ClickSettings


class Beta(NamedTuple):
    """A prior as counts: as if every pair had been seen so often with the one outcome and with the other."""

    ones: float
    zeros: float


#: Leaves a parameter all but free, yet inside 0..1.
FREE = Beta(1e-3, 1e-3)
#: Where the log has too few pairs to tell: a click in five impressions; satisfied by a click in two.
CLICKS, SATISFACTION = Beta(1.0, 4.0), Beta(1.0, 1.0)

_FEWEST_PAIRS, _MOST_PAIRS = 30, 5000
_LOWEST, _HIGHEST = 0.05, 50.0
_ITERATIONS = 300


def of_clicks(settings: ClickSettings, clicks: Array, examined: Array) -> Beta:
    """Return the prior of attractiveness: what the settings say, or what the log does (see ``learn``)."""
    if settings.prior_clicks is not None and settings.prior_skips is not None:
        return Beta(settings.prior_clicks, settings.prior_skips)
    return learn(clicks, examined, CLICKS)


def of_satisfaction(settings: ClickSettings, contented: Array, clicks: Array) -> Beta:
    """Return the prior of satisfaction: half of the settings' clicks for either side, or what the log says."""
    if settings.prior_clicks is not None:
        return Beta(settings.prior_clicks / 2, settings.prior_clicks / 2)
    return learn(contented, clicks, SATISFACTION)


def learn(ones: Array, trials: Array, otherwise: Beta) -> Beta:
    """Return the prior under which the pairs' counts are most likely: empirical Bayes.

    The counts (expected ones, so fractions too) are taken as beta-binomial, whose likelihood climbs by Minka's fixed
    point ("Estimating a Dirichlet distribution", 2000, section 3, equation 55). A sample of the pairs suffices. With
    fewer than 30 pairs the result is ``otherwise``.

    Args:
        ones: [pairs], the outcomes of one kind.
        trials: [pairs], of both kinds.
        otherwise: where to start.
    """
    known = np.flatnonzero(trials > 0.5)
    if len(known) < _FEWEST_PAIRS:
        return otherwise
    known = known[:: -(-len(known) // _MOST_PAIRS)]
    one, all_ = ones[known], trials[known]
    zero = np.maximum(all_ - one, 0)
    prior = np.array(otherwise)
    for _ in range(_ITERATIONS):
        gain = np.array(
            [(digamma(seen + count) - digamma(count)).sum() for seen, count in zip((one, zero), prior, strict=True)]
        )
        total = prior.sum()
        moved = np.clip(prior * gain / (digamma(all_ + total) - digamma(total)).sum(), _LOWEST, _HIGHEST)
        done = np.abs(moved - prior).max() < 1e-3 * total
        prior = moved
        if done:
            break
    return Beta(float(prior[0]), float(prior[1]))
