"""A panel of judges: its votes on mined and on known pairs, what it decides, and how right it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serm.judging import trust
from serm.judging.agreement import Decision, Method, confident, dawid_skene, mace, unanimous
from serm.judging.clues import Clues
from serm.judging.judge import ABSTAINED, Floats, Integers, Votes
from serm.judging.posterior import Posterior, Prior
from serm.settings import JudgingSettings


@dataclass(frozen=True)
class Decided:
    """What a panel decides."""

    pairs: Decision
    """On the n pairs to label."""
    gold: Decision
    """On the held-out seed judgments."""
    figures: Mapping[Method, trust.Figures]
    """How right each method is on the held-out seed judgments."""


@dataclass(frozen=True)
class Panel:
    """The votes of some judges, by judge."""

    votes: Mapping[str, Votes]
    """On the n pairs to label."""
    known_votes: Mapping[str, Votes]
    """On k seed judgments."""
    clues: Clues
    """What is known of the n pairs, for the posterior."""
    known_clues: Clues
    """And of the k seed judgments."""
    known_grades: Integers
    """[k], the true grades of those."""
    held_out: NDArray[np.bool_]
    """[k], those that no judge was calibrated on."""

    def without(self, judge: str) -> Panel:
        """Return the panel of the other judges."""
        votes, known = ({n: v for n, v in of.items() if n != judge} for of in (self.votes, self.known_votes))
        clues, of_known = self.clues.without(judge), self.known_clues.without(judge)
        return Panel(votes, known, clues, of_known, self.known_grades, self.held_out)

    def posterior(self) -> Posterior:
        """Fit the posterior on the seed judgments that are not held out."""
        return Posterior.fit(self.known_clues, self.known_grades, self.held_out)

    def decide(self, settings: JudgingSettings, posterior: Posterior, prior: Prior) -> Decided:
        """Decide on the pairs as ``settings.agreement`` says, and measure the methods on held-out judgments.

        A label model sees pairs and held-out judgments alike, without their grades; so the measure is of the
        very model that labels. So is that of the ``posterior``, but for the mix of grades: held-out judgments have the
        seed's, the pairs have the window's ``prior``.
        """
        checked = np.flatnonzero(self.held_out)
        held_votes = {name: votes.take(checked) for name, votes in self.known_votes.items()}
        votes = np.hstack([_grades(self.known_votes), _grades(self.votes)])
        known = np.full(votes.shape[1], ABSTAINED)
        known[: len(self.known_grades)] = np.where(self.held_out, ABSTAINED, self.known_grades)
        decisions: dict[Method, tuple[Decision, Decision]] = {
            "unanimous": (unanimous(self.votes), unanimous(held_votes))
        }
        models: dict[Method, Callable[[Integers, Integers], Floats]] = {"dawid-skene": dawid_skene}
        if settings.agreement == "mace":
            models["mace"] = mace
        for method, model in models.items():
            labels = model(votes, known)
            of_pairs, of_held = labels[len(self.known_grades) :], labels[checked]
            decisions[method] = (
                confident(self.votes, of_pairs, settings.min_confidence),
                confident(held_votes, of_held, settings.min_confidence),
            )
        believed = replace(posterior, prior=prior).belief(self.clues)
        of_known = posterior.belief(self.known_clues.take(checked))
        decisions["posterior"] = (
            confident(self.votes, believed, settings.min_confidence),
            confident(held_votes, of_known, settings.min_confidence),
        )
        figures = {
            method: trust.measure(held.grades, self.known_grades[checked], held.kept)
            for method, (_, held) in decisions.items()
        }
        return Decided(*decisions[settings.agreement], figures)


def _grades(votes: Mapping[str, Votes]) -> Integers:
    return np.stack([v.grades for v in votes.values()])
