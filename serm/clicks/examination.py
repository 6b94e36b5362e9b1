"""EM for the models in which a row's examination is one of a few parameters: PBM and UBM.

P(click | row) = examination[cell] * attractiveness[pair], where the cell is what examination depends on. Only the
product of the two is seen, so their common scale is free: one cell, of the first position of the log, counts as always
examined, and attractiveness reads as the click rate that a pair would have there.

Source: Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 4.2 (the EM updates of both).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
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


#: Rows that are worked on together: what a step makes of them stays in the processor's cache.
_BLOCK = 2**15


@dataclass(frozen=True)
class _Counts:
    """How often each pair was shown and clicked in each cell: four arrays of equal length, in the order of ``pair``."""

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

    @cached_property
    def blocks(self) -> list[_Block]:
        """The same in blocks of about ``_BLOCK`` rows, each with all rows of its pairs."""
        starts = np.unique(np.searchsorted(self.pair, self.pair[::_BLOCK]))
        return [
            _Block(
                slice(self.pair[start], self.pair[end - 1] + 1),
                self.pair[start:end] - self.pair[start],
                self.cell[start:end],
                self.clicks[start:end],
                self.impressions[start:end] - self.clicks[start:end],
            )
            for start, end in pairwise([*starts, len(self.pair)])
        ]

    def examined(self, attractiveness: Array, examination: Array) -> tuple[Array, Array]:
        """Return [pairs]: the clicks, and the expected number of impressions that were examined."""
        seen, attracts = examination[self.cell], attractiveness[self.pair]
        unseen = (self.impressions - self.clicks) * (1 - seen) / (1 - seen * attracts)
        examined = self.impressions - unseen
        return sums(self.pair, self.clicks, self.pairs), sums(self.pair, examined, self.pairs)


@dataclass(frozen=True)
class _Block:
    """Some rows of ``_Counts``: those of the pairs ``pairs``, which ``pair`` numbers from 0."""

    pairs: slice
    pair: NDArray[np.int64]
    cell: NDArray[np.int64]
    clicks: Array
    skips: Array


@dataclass(frozen=True)
class _Expected:
    """What EM expects of the skips, and the log-likelihood of skips and clicks."""

    unseen: Array
    """[pairs], those in which the document attracted but was not examined."""
    declined: Array
    """[cells], those in which it was examined but did not attract."""
    log_likelihood: float


def _expect(counts: _Counts, attractiveness: Array, examination: Array) -> _Expected:
    unseen, declined, log_likelihood = np.zeros(counts.pairs), np.zeros(counts.cells), 0.0
    for block in counts.blocks:
        seen, attracts = examination[block.cell], attractiveness[block.pairs][block.pair]
        click = seen * attracts
        log_likelihood += float(block.clicks @ np.log(click) + block.skips @ np.log1p(-click))
        skipped = block.skips / (1 - click)
        unseen[block.pairs] = sums(block.pair, skipped * (attracts - click), block.pairs.stop - block.pairs.start)
        declined += sums(block.cell, skipped * (seen - click), counts.cells)
    return _Expected(unseen, declined, log_likelihood)


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
    pair_clicks, pair_shown = (sums(counts.pair, x, counts.pairs) for x in (counts.clicks, counts.impressions))
    cell_clicks, cell_shown = (sums(counts.cell, x, counts.cells) for x in (counts.clicks, counts.impressions))

    def log_posterior() -> float:
        belief = prior.ones * np.log(attractiveness).sum() + prior.zeros * np.log1p(-attractiveness).sum()
        others = np.delete(examination, counts.certain)
        return expected.log_likelihood + float(belief + np.log(others * (1 - others)).sum())

    # Not at the mean of an all but free prior: an unclicked pair would start at 0.
    attractiveness = (pair_clicks + CLICKS.ones) / (pair_shown + sum(CLICKS))
    expected = _expect(counts, attractiveness, examination)
    trace = [log_posterior()]
    while climbs(trace, pair_shown.sum(), settings):
        attractiveness = (pair_clicks + expected.unseen + prior.ones) / (pair_shown + sum(prior))
        if learn_examination:
            examination = (cell_clicks + expected.declined + 1) / (cell_shown + 2)
            examination[counts.certain] = 1.0
        expected = _expect(counts, attractiveness, examination)
        trace.append(log_posterior())
    return attractiveness, examination, tuple(trace)
