"""What all click models have in common: P(click | clicks above) = examination * attractiveness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from serm.clicks.pages import Array, Pages, sums
from serm.clicks.prior import Beta
from serm.settings import ClickSettings

_LEAST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class ClickModel(ABC):
    """A fitted model.

    Attributes:
        attractiveness: [pairs], in 0..1: the chance that a user who examines the document clicks it. A pair without
            impressions has the prior's mean.
        standard_error: [pairs], of attractiveness, with all else taken as known.
        traces: the log posterior (in nats, up to a constant) before the first and after each iteration, of the fit of
            how users browse and of that of the pairs; empty where nothing iterates.
        converged: whether both fits ended before the last iteration that they were allowed.
        prior: of attractiveness, as clicks and skips.
    """

    name: ClassVar[str]

    attractiveness: Array
    standard_error: Array
    traces: tuple[tuple[float, ...], ...]
    converged: bool
    prior: Beta

    @property
    def relevance(self) -> Array:
        """[pairs], in 0..1: the chance that a user who examines the document clicks it and is content.

        A model that knows nothing of contentment takes a click for it.
        """
        return self.attractiveness

    @property
    def relevance_error(self) -> Array:
        """[pairs], the standard error of ``relevance``."""
        return self.standard_error

    def examined(self, pages: Pages) -> Array:
        """Return [pairs]: how many of its impressions on ``pages``, which the model was fitted to, users examined.

        Clicks are binomial of these: it is the number of trials that attractiveness, the mode under ``prior``, came of.
        """
        clicks, shown = (sums(pages.pair, w, pages.pairs) for w in (pages.weight * pages.clicked, pages.weight))
        trials = (clicks + self.prior.ones) / self.attractiveness - sum(self.prior)
        examined: Array = np.clip(trials, clicks, shown)
        return examined

    @classmethod
    @abstractmethod
    def fit(cls, pages: Pages, settings: ClickSettings) -> Self:
        """Fit the model; the same pages give the same model."""

    @abstractmethod
    def examination_of(self, pages: Pages) -> Array:
        """Return [rows]: the chance that the row was examined, given the clicks above it."""

    @abstractmethod
    def for_pairs_of(self, pages: Pages, settings: ClickSettings) -> Self:
        """Return the model whose users browse alike, with the pairs of ``pages`` fitted."""

    def click_probability(self, pages: Pages) -> Array:
        """Return [rows]: the chance of a click, given the clicks above it."""
        return self.examination_of(pages) * self.attractiveness[pages.pair]


@dataclass(frozen=True)
class Tally:
    """How well a model foretells the clicks at each rank, and how far users look; sums, which add up over pages.

    Attributes:
        shown: [ranks], impressions.
        examined: [ranks], the expected number of those that were examined.
        log_likelihood: [ranks], in nats.
    """

    shown: Array
    examined: Array
    log_likelihood: Array

    @classmethod
    def of(cls, model: ClickModel, pages: Pages) -> Tally:
        """Let ``model`` foretell ``pages``, whose pairs it was fitted to."""
        examined = model.examination_of(pages)
        probability = examined * model.attractiveness[pages.pair]
        # A click so deep that its chance is below what a float can hold is unlikely, not impossible.
        log_likelihood = np.log(np.maximum(np.where(pages.clicked, probability, 1 - probability), _LEAST))
        return cls(
            *(
                sums(pages.position - 1, pages.weight * value, pages.last)
                for value in (np.ones(len(probability)), examined, log_likelihood)
            )
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.shown + other.shown, self.examined + other.examined, self.log_likelihood + other.log_likelihood
        )

    @property
    def examination(self) -> Array:
        """[ranks], the share of users that examine the rank; nan where nothing was shown."""
        return _ratio(self.examined, self.shown)

    @property
    def perplexity_by_rank(self) -> Array:
        """[ranks], of clicks given those above: 1 is certain, 2 a coin's, nan a rank unseen.

        Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 5.2: two to the mean negative
        log2-likelihood at the rank; here of the conditional likelihood.
        """
        perplexity: Array = np.exp(-_ratio(self.log_likelihood, self.shown))
        return perplexity

    @property
    def perplexity(self) -> float:
        """The same over all impressions, so that a rank counts as often as it was shown; nan if nothing was."""
        shown = self.shown.sum()
        return float(np.exp(-self.log_likelihood.sum() / shown)) if shown else np.nan


def climbs(trace: list[float], impressions: float, settings: ClickSettings) -> bool:
    """Whether an EM fit goes on: its last iteration gained enough, and it may iterate."""
    if len(trace) > settings.iterations:
        return False
    return len(trace) < 2 or trace[-1] - trace[-2] >= settings.tolerance * impressions


def beta_curvature(mode: Array, ones: Array | float, zeros: Array | float) -> Array:
    """Return minus the second derivative at ``mode`` of the log likelihood of so many ones and zeros."""
    curvature: Array = ones / mode**2 + zeros / (1 - mode) ** 2
    return curvature


def _ratio(numerator: Array, denominator: Array) -> Array:
    shown = denominator > 0
    ratio: Array = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=shown)
    return ratio
