"""The dynamic Bayesian network: users read from the top, and stop when they are content or tired.

A user who examines a document clicks it with the chance ``attractiveness``. A click contents them with the chance
``satisfaction``, and ends the search; otherwise they examine the next position with the chance ``continuation``.

Sources: Chapelle and Zhang, "A dynamic Bayesian network click model for web search ranking", WWW 2009, section 4
(there ``a``, ``s`` and ``gamma``; relevance is ``a * s``); Chuklin, Markov and de Rijke, "Click Models for Web Search",
2015, sections 3.8 and 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from serm.clicks.chains import Chains, Numbers
from serm.clicks.model import ClickModel, beta_curvature, climbs
from serm.clicks.pages import Array, Pages, sums
from serm.clicks.prior import CLICKS, FREE, SATISFACTION, Beta, of_clicks, of_satisfaction
from serm.settings import ClickSettings


@dataclass(frozen=True, kw_only=True)
class DynamicBayesianNetwork(ClickModel):
    """A fitted model.

    Attributes:
        satisfaction: [pairs], in 0..1: the chance that a click contents the user.
        satisfaction_error: [pairs], its standard error, with all else taken as known.
        continuation: the chance that a user who is not content examines the next position.
        satisfaction_prior: as contented and other clicks.
    """

    name: ClassVar[str] = "dynamic Bayesian network"

    satisfaction: Array
    satisfaction_error: Array
    continuation: float
    satisfaction_prior: Beta

    @property
    def relevance(self) -> Array:
        """[pairs], in 0..1: attractiveness * satisfaction, Chapelle and Zhang's section 4."""
        return self.attractiveness * self.satisfaction

    @property
    def relevance_error(self) -> Array:
        """[pairs], the standard error of ``relevance``, by the delta method; the two are taken as independent."""
        return np.hypot(self.satisfaction * self.standard_error, self.attractiveness * self.satisfaction_error)

    def examination_of(self, pages: Pages) -> Array:
        """Return [rows]: the chance that the row was examined, given the clicks above it.

        A position that the page lacks is passed as if nothing was clicked there.
        """
        attracts, contents = self.attractiveness[pages.pair], self.satisfaction[pages.pair]
        examined = np.empty(len(attracts))
        top, length = pages.start[:-1], np.diff(pages.start)
        longest_first = np.argsort(-length, kind="stable")
        top, length = top[longest_first], length[longest_first]
        examined[top] = self.continuation ** (pages.position[top] - pages.first)
        for rows in range(1, int(length[0])):
            row = top[: np.searchsorted(-length, -rows)] + rows  # the pages of more rows
            above = row - 1
            skipped = examined[above] * (1 - attracts[above]) / (1 - examined[above] * attracts[above])
            unsatisfied = np.where(pages.clicked[above], 1 - contents[above], skipped)
            examined[row] = unsatisfied * self.continuation ** (pages.position[row] - pages.position[above])
        return examined

    @classmethod
    def fit(cls, pages: Pages, settings: ClickSettings) -> Self:
        """Fit the model by EM to its posterior mode; the same pages give the same model.

        As in the position-based model, how users browse (here ``continuation``, with the prior Beta(2, 2)) is fitted
        first, with the pairs all but free, and then held while the pairs are fitted with their priors.
        """
        evidence = Statistics.of(pages)
        a, s, continuation, trace = _climb(evidence, _FIRST_GUESS, (FREE, FREE), settings, learn_continuation=True)
        expected = _expect(evidence, a, s, continuation)
        clicked_on = expected.contented + expected.returned + evidence.returned
        nothing = np.zeros(0)
        model = cls(
            attractiveness=nothing,
            standard_error=nothing,
            satisfaction=nothing,
            satisfaction_error=nothing,
            continuation=continuation,
            traces=(trace,),
            converged=len(trace) <= settings.iterations,
            prior=of_clicks(settings, evidence.clicks, evidence.clicks + evidence.passed + expected.skipped),
            satisfaction_prior=of_satisfaction(settings, expected.contented, clicked_on),
        )
        return model._with_pairs(evidence, settings)

    def for_pairs_of(self, pages: Pages, settings: ClickSettings) -> Self:
        """Return the model whose users browse alike, with the pairs of ``pages`` fitted."""
        return self._with_pairs(Statistics.of(pages), settings)

    def _with_pairs(self, evidence: Statistics, settings: ClickSettings) -> Self:
        priors = self.prior, self.satisfaction_prior
        a, s, _, trace = _climb(evidence, self.continuation, priors, settings, learn_continuation=False)
        errors = (1 / np.sqrt(information) for information in _information(evidence, a, s, self.continuation, priors))
        attractiveness_error, satisfaction_error = errors
        return replace(
            self,
            attractiveness=a,
            standard_error=attractiveness_error,
            satisfaction=s,
            satisfaction_error=satisfaction_error,
            traces=(self.traces[0], trace),
            converged=self.converged and len(trace) <= settings.iterations,
        )


_FIRST_GUESS = 0.9


@dataclass(frozen=True)
class Statistics:
    """The sufficient statistics: what is certain, counted by pair, and the chains below the last clicks.

    Attributes:
        clicks: [pairs].
        passed: [pairs], impressions skipped above a page's last click, so surely examined.
        returned: [pairs], clicks with another click below, so surely not content.
        steps: positions that users surely went down, over all pages.
        unclicked: [pairs], impressions on pages without a click.
        chains: all else.
    """

    clicks: Array
    passed: Array
    returned: Array
    steps: float
    unclicked: Array
    chains: Chains

    @classmethod
    def of(cls, pages: Pages) -> Statistics:
        """Count ``pages``."""
        row = np.arange(len(pages.pair))
        last_click = pages.last_click[pages.page]
        above, any_click = row < last_click, pages.last_click >= pages.start[:-1]

        def count(rows: NDArray[np.bool_]) -> Array:
            return sums(pages.pair[rows], pages.weight[rows], pages.pairs)

        depth = pages.position[pages.last_click[any_click]] - pages.first
        return cls(
            clicks=count(pages.clicked),
            passed=count(above & ~pages.clicked),
            returned=count(above & pages.clicked),
            steps=float(depth @ pages.seen[any_click]),
            unclicked=count(~any_click[pages.page]),
            chains=Chains.of(pages),
        )


@dataclass(frozen=True)
class _Expected:
    """What EM expects to have happened below the last clicks, and how likely it is that nothing was clicked there."""

    skipped: Array
    """[pairs], impressions examined and not clicked."""
    contented: Array
    """[pairs], of the last clicks with rows below."""
    returned: Array
    """[pairs], of the same clicks, those that did not."""
    went_on: float
    stopped: float
    log_likelihood: float


class _Reading:
    """What users who click no more may have done below: the chances of each remainder (arrays [N], see ``Chains``).

    Attributes:
        below: that nothing is clicked below, for a user who examined the first row and was not content.
        share: of those of whom that is true, who went on below.
        quiet: for each of ``chains.last``, that nothing is clicked below, for a user who clicked its first row.
        returned: of those, who were not content.
        enters: for each of ``chains.start``, who examined its first row, of those who clicked nothing.
        log_likelihood: of all that was not clicked below the last clicks.
    """

    def __init__(self, chains: Chains, a: Array, s: Array, continuation: float) -> None:
        self._chains = chains
        powers = continuation**chains.steps
        nothing = np.take(1 - a, chains.pair)  # is clicked from the first row on, once that is examined
        self.below, self.share = np.ones(len(nothing)), np.zeros(len(nothing))
        for here, there, index in chains.levels:
            goes = powers[chains.step[-1]] if chains.even else powers[chains.step[here]]
            on, below = np.take(nothing[there], index), self.below[here]
            on *= goes
            np.add(on, 1 - goes, out=below)
            np.divide(on, below, out=self.share[here])
            nothing[here] *= below

        contents = s[chains.pair[chains.last]]
        stayed = (1 - contents) * self.below[chains.last]
        self.quiet = contents + stayed
        self.returned = stayed / self.quiet
        number, late, pages = chains.start
        entered = powers[late] * nothing[number]
        at_start = 1 - powers[late] + entered
        self.enters = entered / at_start
        self.log_likelihood = float(chains.clicked @ np.log(self.quiet) + pages @ np.log(at_start))

    def descend(self, power: int = 1) -> tuple[Array, Array, Array]:
        """Return three arrays [N], summed over all pages: the chances (each to the ``power``) that a user who clicks no
        more came to the remainder's first row from above; examined it and was not content; and went on below.
        """
        chains = self._chains
        number, _, pages = chains.start
        arriving = sums(number, pages * self.enters**power, len(self.below))
        leaving = np.zeros(len(arriving))
        leaving[chains.last] = chains.clicked * self.returned**power
        going = self.share**power
        for here, there, index in reversed(chains.levels):
            leaving[here] += arriving[here]
            going[here] *= leaving[here]
            arriving[there] += np.bincount(index, going[here], there.stop - there.start)
        return arriving, leaving, going


def _expect(evidence: Statistics, a: Array, s: Array, continuation: float) -> _Expected:
    chains, pairs = evidence.chains, len(a)
    reading = _Reading(chains, a, s, continuation)
    arriving, leaving, going = reading.descend()
    _, late, pages = chains.start
    # By the step down: who went on, and who stopped on the way.
    went = chains.by_step(going) + sums(late, pages * reading.enters, len(chains.steps))
    stopped = chains.by_step(leaving - going) + sums(late, pages * (1 - reading.enters), len(chains.steps))
    last_pair, returned = chains.pair[chains.last], chains.clicked * reading.returned
    return _Expected(
        skipped=sums(chains.pair, arriving, pairs),
        contented=sums(last_pair, chains.clicked - returned, pairs),
        returned=sums(last_pair, returned, pairs),
        went_on=float(went @ chains.steps + stopped @ _steps_before_stopping(chains.steps, continuation)),
        stopped=float(stopped[chains.steps > 0].sum()),
        log_likelihood=reading.log_likelihood,
    )


def _steps_before_stopping(steps: Numbers, continuation: float) -> Array:
    """Return for each number of steps how many were taken by those who took some, not all: a cut geometric's mean."""
    some = np.maximum(steps, 1)
    power = continuation**some
    mean: Array = continuation / (1 - continuation) - some * power / (1 - power)
    return mean


def _climb(
    evidence: Statistics,
    continuation: float,
    priors: tuple[Beta, Beta],
    settings: ClickSettings,
    *,
    learn_continuation: bool,
) -> tuple[Array, Array, float, tuple[float, ...]]:
    """Return attractiveness, satisfaction, continuation and the trace of the log posterior, which EM never lowers."""
    attraction, contentment = priors
    clicks, passed, returned, unclicked = evidence.clicks, evidence.passed, evidence.returned, evidence.unclicked

    def log_posterior() -> float:
        certain = clicks @ np.log(a) + passed @ np.log1p(-a) + returned @ np.log1p(-s)
        prior = attraction.ones * np.log(a).sum() + attraction.zeros * np.log1p(-a).sum()
        prior += contentment.ones * np.log(s).sum() + contentment.zeros * np.log1p(-s).sum()
        browsing = (evidence.steps + 1) * np.log(continuation) + np.log1p(-continuation)
        return float(certain + expected.log_likelihood + prior + browsing)

    # Start at what the simplified model counts: see _climb in clicks.examination.
    a = (clicks + CLICKS.ones) / (clicks + passed + unclicked + sum(CLICKS))
    s = (clicks - returned + SATISFACTION.ones) / (clicks + sum(SATISFACTION))
    expected = _expect(evidence, a, s, continuation)
    trace = [log_posterior()]
    while climbs(trace, clicks.sum() + passed.sum() + unclicked.sum(), settings):
        skips = passed + expected.skipped
        a = (clicks + attraction.ones) / (clicks + skips + sum(attraction))
        contented = expected.contented + contentment.ones
        s = contented / (contented + returned + expected.returned + contentment.zeros)
        if learn_continuation:
            went_on = evidence.steps + expected.went_on + 1
            continuation = went_on / (went_on + expected.stopped + 1)
        expected = _expect(evidence, a, s, continuation)
        trace.append(log_posterior())
    return a, s, continuation, tuple(trace)


def _information(
    evidence: Statistics, a: Array, s: Array, continuation: float, priors: tuple[Beta, Beta]
) -> tuple[Array, Array]:
    """Return minus the second derivative of the log posterior by each pair's attractiveness, and by its satisfaction.

    A page is linear in each, so its own is the square of its first derivative; for a skipped document that is the
    chance that it was examined, given all clicks, over 1 - a.
    """
    chains, pairs = evidence.chains, len(a)
    reading = _Reading(chains, a, s, continuation)
    arriving, _, _ = reading.descend(power=2)
    examined = evidence.passed + sums(chains.pair, arriving, pairs)
    attraction = beta_curvature(a, evidence.clicks + priors[0].ones, examined + priors[0].zeros)
    slope = (1 - reading.below[chains.last]) / reading.quiet
    contentment = beta_curvature(s, priors[1].ones, evidence.returned + priors[1].zeros)
    contentment += sums(chains.pair[chains.last], chains.clicked * slope**2, pairs)
    return attraction, contentment
