"""EM for the models in which a row's examination is one of a few parameters: PBM and UBM.

P(click | row) = examination[cell] * attractiveness[pair], where the cell is what examination depends on. Only the
product of the two is seen, so their common scale is free: one cell, of the first position of the log, counts as always
examined, and attractiveness reads as the click rate that a pair would have there.

Source: Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 4.2 (the EM updates of both).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serm.clicks.model import ClickModel, beta_curvature, climbs
from serm.clicks.pages import Array, Pages, sums
from serm.clicks.prior import CLICKS, FREE, Beta, of_clicks
from serm.settings import ClickSettings


@dataclass(frozen=True, kw_only=True)
class ExaminationModel(ClickModel):
    """A fitted model.

    Attributes:
        cells: the examination of each cell, in 0..1.
    """

    cells: Array

    @staticmethod
    @abstractmethod
    def cell_of(pages: Pages) -> tuple[NDArray[np.int64], int, int]:
        """Return the cell of each row, how many cells there are, and which of them is always examined."""

    def examination_of(self, pages: Pages) -> Array:
        """Return [rows]: the chance that the row was examined, given the clicks above it."""
        examination: Array = self.cells[self.cell_of(pages)[0]]
        return examination

    @classmethod
    def fit(cls, pages: Pages, settings: ClickSettings) -> Self:
        """Fit the model by EM to its posterior mode; the same pages give the same model.

        Each cell has the prior Beta(2, 2), one seen and one unseen, so one that the log lacks has one half.
        Attractiveness has a prior as if some clicks and skips of each pair had been seen at the first position, so a
        rare pair stays near the mean of the prior (see ``prior.of_clicks`` for how many). But that prior would bias
        examination: it pulls down the attractive pairs, which stand at the top, and the ranks below look
        the more examined. So examination is fitted first, with attractiveness all but free, and then held while
        attractiveness is fitted with its prior.

        Each fit ends when an iteration gains less than ``tolerance`` nats an impression, or after ``iterations``.
        """
        counts = _Counts.of(pages, *cls.cell_of(pages))
        freely, cells, trace = _climb(counts, _first_guess(counts), FREE, settings, learn_examination=True)
        prior = of_clicks(settings, *counts.examined(freely, cells))
        nothing = np.zeros(0)
        converged = len(trace) <= settings.iterations
        model = cls(
            attractiveness=nothing,
            standard_error=nothing,
            traces=(trace,),
            converged=converged,
            cells=cells,
            prior=prior,
        )
        return model._with_pairs(counts, settings)

    def for_pairs_of(self, pages: Pages, settings: ClickSettings) -> Self:
        """Return the model whose users browse alike, with the pairs of ``pages`` fitted."""
        return self._with_pairs(_Counts.of(pages, *self.cell_of(pages)), settings)

    def _with_pairs(self, counts: _Counts, settings: ClickSettings) -> Self:
        attractiveness, _, trace = _climb(counts, self.cells, self.prior, settings, learn_examination=False)
        seen, attracts = self.cells[counts.cell], attractiveness[counts.pair]
        skips = counts.impressions - counts.clicks
        curvature = counts.clicks / attracts**2 + skips * (seen / (1 - seen * attracts)) ** 2
        information = sums(counts.pair, curvature, counts.pairs) + beta_curvature(attractiveness, *self.prior)
        return replace(
            self,
            attractiveness=attractiveness,
            standard_error=1 / np.sqrt(information),
            traces=(self.traces[0], trace),
            converged=self.converged and len(trace) <= settings.iterations,
        )


@dataclass(frozen=True)
class _Counts:
    """How often each pair was shown and clicked in each cell: four arrays of equal length."""

    pair: NDArray[np.int64]
    cell: NDArray[np.int64]
    impressions: Array
    clicks: Array
    pairs: int
    cells: int
    certain: int

    @classmethod
    def of(cls, pages: Pages, cell: NDArray[np.int64], cells: int, certain: int) -> _Counts:
        key, group = np.unique(pages.pair.astype(np.int64) * cells + cell, return_inverse=True)
        shown, clicks = (sums(group, weight, len(key)) for weight in (pages.weight, pages.weight * pages.clicked))
        return cls(key // cells, key % cells, shown, clicks, pages.pairs, cells, certain)

    def examined(self, attractiveness: Array, examination: Array) -> tuple[Array, Array]:
        """Return [pairs]: the clicks, and the expected number of impressions that were examined."""
        seen, attracts = examination[self.cell], attractiveness[self.pair]
        unseen = (self.impressions - self.clicks) * (1 - seen) / (1 - seen * attracts)
        examined = self.impressions - unseen
        return sums(self.pair, self.clicks, self.pairs), sums(self.pair, examined, self.pairs)


def _first_guess(counts: _Counts) -> Array:
    """Return each cell's click rate over the certain one's, short of 1 (from which EM would never leave)."""
    shown, clicks = (sums(counts.cell, weight, counts.cells) for weight in (counts.impressions, counts.clicks))
    rate = (clicks + 1) / (shown + 2)
    guess: Array = np.clip(rate / rate[counts.certain], 0.05, 0.95)
    guess[counts.certain] = 1.0
    return guess


def _climb(
    counts: _Counts,
    examination: Array,
    prior: Beta,
    settings: ClickSettings,
    *,
    learn_examination: bool,
) -> tuple[Array, Array, tuple[float, ...]]:
    """Return attractiveness, examination and the trace of the log posterior, which EM never lowers."""
    pair, cell, pairs, cells = counts.pair, counts.cell, counts.pairs, counts.cells
    clicks, skips = counts.clicks, counts.impressions - counts.clicks
    pair_clicks, pair_shown = sums(pair, clicks, pairs), sums(pair, counts.impressions, pairs)
    cell_clicks, cell_shown = sums(cell, clicks, cells), sums(cell, counts.impressions, cells)

    def log_posterior() -> float:
        likelihood = clicks @ np.log(seen * attracts) + skips @ np.log1p(-seen * attracts)
        belief = prior.ones * np.log(attractiveness).sum() + prior.zeros * np.log1p(-attractiveness).sum()
        others = np.delete(examination, counts.certain)
        return float(likelihood + belief + np.log(others * (1 - others)).sum())

    # Not at the mean of an all but free prior: an unclicked pair would start at 0.
    attractiveness = (pair_clicks + CLICKS.ones) / (pair_shown + sum(CLICKS))
    seen, attracts = examination[cell], attractiveness[pair]
    trace = [log_posterior()]
    while climbs(trace, pair_shown.sum(), settings):
        skipped = skips / (1 - seen * attracts)
        # Of the skips, those in which the document attracted but was not examined, and the reverse.
        unseen = sums(pair, skipped * attracts * (1 - seen), pairs)
        declined = sums(cell, skipped * seen * (1 - attracts), cells)
        attractiveness = (pair_clicks + unseen + prior.ones) / (pair_shown + sum(prior))
        if learn_examination:
            examination = (cell_clicks + declined + 1) / (cell_shown + 2)
            examination[counts.certain] = 1.0
        seen, attracts = examination[cell], attractiveness[pair]
        trace.append(log_posterior())
    return attractiveness, examination, tuple(trace)
