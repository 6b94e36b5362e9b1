"""The position-based click model: a click needs a document that was examined and that attracts.

    P(click | pair, position) = examination[position] * attractiveness[pair]

Sources: Craswell, Zoeter, Taylor and Ramsey, "An experimental comparison of click position-bias models",
WSDM 2008, section 3 (the examination hypothesis); Chuklin, Markov and de Rijke, "Click Models for Web
Search", 2015, section 3.3 (PBM), section 4.2 (its EM updates), section 5.2 (perplexity).

Only the product of the two is seen, so their common scale is free: the first position shown in the log counts
as always examined, and attractiveness reads as the click rate that a pair would have there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serm.clicks.counts import ClickCounts
from serm.settings import ClickSettings

Array = NDArray[np.float64]

#: The clicks and skips of a prior that leaves attractiveness all but free, yet inside 0..1.
FREE = 1e-3


@dataclass(frozen=True)
class PositionBasedModel:
    """A fitted model.

    Attributes:
        attractiveness: [pairs], in 0..1. A pair without impressions has the prior's mean.
        standard_error: [pairs], of attractiveness, with examination taken as known.
        examination: [positions], in 0..1; its first element is position 1. A position that the log lacks
            has the prior's one half.
        traces: the log posterior (in nats, up to a constant) before the first and after each iteration, of the
            fit of both and of that of attractiveness alone (see ``fit``).
        converged: whether both fits ended before the last iteration that they were allowed.
    """

    attractiveness: Array
    standard_error: Array
    examination: Array
    traces: tuple[tuple[float, ...], tuple[float, ...]]
    converged: bool

    def click_probability(self, counts: ClickCounts) -> Array:
        """Return P(click) for each row of ``counts``, whose pairs and positions are those of the fit."""
        return self.examination[counts.position - 1] * self.attractiveness[counts.pair]

    def log_likelihood(self, counts: ClickCounts) -> float:
        """Return the log-likelihood of ``counts`` in nats."""
        return float(_log_likelihood(counts, self.click_probability(counts)).sum())

    def perplexity(self, counts: ClickCounts) -> Array:
        """Return the perplexity of clicks at each position: 1 is certain, 2 a coin's, nan a rank unseen.

        Chuklin et al. 2015, section 5.2: two to the mean negative log2-likelihood at the rank.
        """
        ranks = len(self.examination)
        log_likelihood = _log_likelihood(counts, self.click_probability(counts))
        total = np.bincount(counts.position - 1, log_likelihood, ranks)
        shown = np.bincount(counts.position - 1, counts.impressions, ranks)
        mean = np.divide(total, shown, out=np.full(ranks, np.nan), where=shown > 0)
        perplexity: Array = np.exp(-mean)
        return perplexity


def fit(counts: ClickCounts, settings: ClickSettings) -> PositionBasedModel:
    """Fit the model by EM to its posterior mode; the same counts give the same model.

    Attractiveness has the prior Beta(prior_clicks + 1, prior_skips + 1), as if so many clicks and skips of each
    pair had been seen at the first position, so a rare pair stays near the mean of the prior. But that prior
    would bias examination: it pulls down the attractive pairs, which stand at the top, and the ranks below look
    the more examined. So examination is fitted first, with attractiveness all but free, and then held while
    attractiveness is fitted with its prior. Examination itself has Beta(2, 2), one seen and one unseen.

    Each fit ends when an iteration gains less than ``tolerance`` nats an impression, or after ``iterations``.
    """
    examination = _first_guess(counts)
    _, examination, both = _climb(counts, examination, FREE, FREE, settings, learn_examination=True)
    priors = settings.prior_clicks, settings.prior_skips
    attractiveness, examination, alone = _climb(counts, examination, *priors, settings, learn_examination=False)
    error = _standard_error(attractiveness, examination, counts, settings)
    converged = all(len(trace) <= settings.iterations for trace in (both, alone))
    return PositionBasedModel(attractiveness, error, examination, (both, alone), converged)


def _first_guess(counts: ClickCounts) -> Array:
    """Return each rank's click rate over the first's, short of 1 (from which EM would never leave)."""
    rank = counts.position - 1
    rate = (np.bincount(rank, counts.clicks) + 1) / (np.bincount(rank, counts.impressions) + 2)
    first = rank.min()
    guess: Array = np.clip(rate / rate[first], 0.05, 0.95)
    guess[first] = 1.0
    return guess


def _climb(
    counts: ClickCounts,
    examination: Array,
    prior_clicks: float,
    prior_skips: float,
    settings: ClickSettings,
    *,
    learn_examination: bool,
) -> tuple[Array, Array, tuple[float, ...]]:
    """Return attractiveness, examination and the trace of the log posterior, which EM never lowers."""
    pair, rank = counts.pair, counts.position - 1
    first, pairs, ranks = int(rank.min()), counts.pairs, len(examination)
    skips = counts.impressions - counts.clicks
    pair_clicks, pair_shown = np.bincount(pair, counts.clicks, pairs), np.bincount(pair, counts.impressions, pairs)
    rank_clicks, rank_shown = np.bincount(rank, counts.clicks, ranks), np.bincount(rank, counts.impressions, ranks)

    def log_posterior() -> float:
        likelihood = _log_likelihood(counts, examination[rank] * attractiveness[pair]).sum()
        prior = prior_clicks * np.log(attractiveness).sum() + prior_skips * np.log1p(-attractiveness).sum()
        others = np.delete(examination, first)
        return float(likelihood + prior + np.log(others * (1 - others)).sum())

    # Start at the mean of the settings' prior: from an all but free one, an unclicked pair would start at 0.
    weight = settings.prior_clicks + settings.prior_skips
    attractiveness = (pair_clicks + settings.prior_clicks) / (pair_shown + weight)
    trace = [log_posterior()]
    gain = np.inf
    while gain >= settings.tolerance * rank_shown.sum() and len(trace) <= settings.iterations:
        seen, attracts = examination[rank], attractiveness[pair]
        skipped = skips / (1 - seen * attracts)
        # Of the skips, those in which the document attracted but was not examined, and the reverse.
        unseen = np.bincount(pair, skipped * attracts * (1 - seen), pairs)
        declined = np.bincount(rank, skipped * seen * (1 - attracts), ranks)
        attractiveness = (pair_clicks + unseen + prior_clicks) / (pair_shown + prior_clicks + prior_skips)
        if learn_examination:
            examination = (rank_clicks + declined + 1) / (rank_shown + 2)
            examination[first] = 1.0
        trace.append(log_posterior())
        gain = trace[-1] - trace[-2]
    return attractiveness, examination, tuple(trace)


def _log_likelihood(counts: ClickCounts, probability: Array) -> Array:
    """Return each row's log-likelihood in nats; ``probability`` lies inside 0..1 by the priors."""
    skips = counts.impressions - counts.clicks
    return counts.clicks * np.log(probability) + skips * np.log1p(-probability)


def _standard_error(attractiveness: Array, examination: Array, counts: ClickCounts, settings: ClickSettings) -> Array:
    """Return [pairs]: one over the root of minus the second derivative of the log posterior at its mode."""
    seen, attracts = examination[counts.position - 1], attractiveness[counts.pair]
    skips = counts.impressions - counts.clicks
    curvature = counts.clicks / attracts**2 + skips * (seen / (1 - seen * attracts)) ** 2
    prior = settings.prior_clicks / attractiveness**2 + settings.prior_skips / (1 - attractiveness) ** 2
    error: Array = 1 / np.sqrt(np.bincount(counts.pair, curvature, counts.pairs) + prior)
    return error
