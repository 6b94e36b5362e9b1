"""The panel's belief in each grade of a pair: Bayes' rule over the texts, what users did and what LLM judges said.

    log P(grade | all) = log prior + log text ratio + w log users' likelihood + v log LLM judges' likelihood + constant

The parts are fitted on seed judgments that are not held out. Powers w and v lie in 0..1: evidence that is surer of
itself than it is right, as users with habits of their own or judges that copy each other are, counts for less (a power
likelihood: Holmes and Walker, "Assigning a value to a power likelihood in a general Bayesian model", Biometrika 2017).
What users did is left out altogether where it makes the belief in held-out judgments no better.

The mix of grades among seed judgments is not that of the window. The prior is moved to it by EM over the window's own
pairs (Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural
Computation 2002), apart for pairs that users were shown and for those that nobody has seen. That asks for evidence
which says the same of a grade in both places. What users do with a pair does; what its texts have in common does not,
since seed judgments are of pools, with documents that no engine would serve: by texts alone EM takes 43 to 91 % of the
emoji world's shown pairs for grade 1, where 10 to 12 are. So shown pairs' prior is moved by users alone, and the seed's
mix counts a tenth of theirs, for users whom the click model does not describe. Where users are left out it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from serm.judging import trust
from serm.judging.clues import Clues
from serm.judging.evidence.text_likelihood import TextLikelihood
from serm.judging.evidence.user_likelihood import Counts, UserLikelihood
from serm.judging.judge import ABSTAINED, GRADES, Floats, Integers, Votes

FEWEST_SEEN = 50
"""Seed judgments of pairs that users of the window saw, without which what users do cannot be read as a grade."""
_SMOOTHING = 1.0
"""Votes that each grade's row of a judge's confusion starts with, as the judge votes over all grades."""
_ANCHOR = 20.0
"""Pairs of another mix of grades that are counted beside those of a mix, at least."""
_SHOWN_ANCHOR = 0.1
"""As many, for one shown pair of the window."""
_DOUBT = 0.5
"""How far a power is expected to lie from 1."""
BUCKETS = {"0": (0, 1), "1 to 4": (1, 5), "5 to 19": (5, 20), "20 to 79": (20, 80), "80 and more": (80, np.inf)}
"""Impressions by which the held-out figures are told apart."""


@dataclass(frozen=True)
class Prior:
    """How common each grade is, as logarithms [4]."""

    shown: Floats
    """Among pairs that users were shown."""
    unseen: Floats
    """Among the others."""

    def of(self, clues: Clues) -> Floats:
        """Return [n, 4], each pair's."""
        return np.where(clues.counts.seen[:, None], self.shown, self.unseen)


@dataclass(frozen=True)
class Posterior:
    """The fitted parts."""

    prior: Prior
    text: TextLikelihood
    users: UserLikelihood | None
    users_power: float
    left_out: str
    """Why what users did is left out; empty where it is not."""
    confusion: Mapping[str, Floats]
    """By LLM judge, log P(vote | grade) [4 grades, 4 votes]."""
    votes_power: float

    @classmethod
    def fit(cls, clues: Clues, grades: Integers, held_out: NDArray[np.bool_]) -> Self:
        """Fit to k pairs of known ``grades`` [k] without those that are ``held_out`` [k], which decide about users."""
        rows = np.flatnonzero(~held_out)
        fitting, known = clues.take(rows), grades[rows]
        text = TextLikelihood.fit(fitting.text, known)
        seen = np.flatnonzero(fitting.counts.seen)
        prior = Prior(_mix(known[seen], text.log_prior), _mix(np.delete(known, seen), text.log_prior))
        fitted = cls(prior, text, None, 0.0, _too_few(known[seen]), _confusions(fitting.votes, known), 0.0)
        if not fitted.left_out:
            fitted = fitted._with_users(fitting, known, clues, grades, held_out)
        if fitted.confusion:
            said = fitted._votes(fitting)
            asked = np.flatnonzero(said.any(axis=1))
            rest = prior.of(fitting) + fitted.log_likelihood(fitting)
            fitted = replace(fitted, votes_power=_power(rest[asked], said[asked], known[asked]))
        return fitted

    def _with_users(
        self, fitting: Clues, known: Integers, clues: Clues, grades: Integers, held_out: NDArray[np.bool_]
    ) -> Self:
        seen = np.flatnonzero(fitting.counts.seen)
        users = UserLikelihood.fit(fitting.counts.take(seen), known[seen])
        did, rest = users.log_likelihood(fitting.counts), self.prior.of(fitting) + self._text(fitting)
        fitted = replace(self, users=users, users_power=_power(rest[seen], did[seen], known[seen]))
        checked = np.flatnonzero(held_out & clues.counts.seen)
        of_checked, truth = clues.take(checked), grades[checked]
        alone = self.prior.of(of_checked) + self._text(of_checked)
        with_users, without = _loss(alone + fitted._users(of_checked), truth), _loss(alone, truth)
        if with_users < without:
            return fitted
        return replace(
            self,
            left_out=f"on {len(checked)} held-out seed judgments the negative log-likelihood is {with_users:.3f} with"
            f" what users did and {without:.3f} without",
        )

    def log_likelihood(self, clues: Clues) -> Floats:
        """Return [n, 4]: log P(clues | grade), up to a term that is the same for all grades."""
        return self._text(clues) + self._users(clues) + self.votes_power * self._votes(clues)

    def belief(self, clues: Clues) -> Floats:
        """Return [n, 4]: the posterior, each row sums to 1."""
        return believed(self.prior.of(clues), self.log_likelihood(clues))

    def moved(self, shown: Counts, unseen: Floats) -> Self:
        """Return the posterior with its prior moved to a window.

        Args:
            shown: what users did with the n pairs that they were shown.
            unseen: log-likelihoods [m, 4] of pairs that nobody has seen.
        """
        of_shown = self.prior.shown
        if self.users:
            did = self.users_power * self.users.log_likelihood(shown)
            of_shown = shifted(of_shown, did, max(_ANCHOR, _SHOWN_ANCHOR * len(did)))
        return replace(self, prior=Prior(of_shown, shifted(self.prior.unseen, unseen, _ANCHOR)))

    def figures(self, clues: Clues, grades: Integers) -> dict[str, Any]:
        """Measure the belief in pairs of known ``grades`` [n], under the seed's prior.

        Returns:
            ``posterior``, ``text`` and, where they are used, ``users`` (each alone with the prior), as ``measured``;
            ``by_impressions`` holds the same for ``BUCKETS``; ``users`` and those count pairs that users were shown.
        """
        prior = self.prior.of(clues)
        beliefs = {"posterior": self.belief(clues), "text": believed(prior, self._text(clues))}
        if self.users:
            beliefs["users"] = believed(prior, self._users(clues))
        impressions, seen = clues.counts.impressions, clues.counts.seen
        parts = {name: (impressions >= low) & (impressions < high) for name, (low, high) in BUCKETS.items()}
        whole = {name: measured(belief, grades) for name, belief in beliefs.items()}
        if self.users:
            whole["users"] = measured(beliefs["users"][seen], grades[seen])
        by_impressions = {
            name: {n: measured(b[rows], grades[rows]) for n, b in beliefs.items()}
            for name, rows in parts.items()
            if rows.any()
        }
        return {**whole, "by_impressions": by_impressions}

    def summary(self) -> dict[str, Any]:
        """Return what was fitted: whether users count, the powers, the users' parameters, and the prior in use."""
        of = {"shown": self.prior.shown, "unseen": self.prior.unseen}
        return {
            "users": f"left out: {self.left_out}" if self.left_out else "used",
            "users_power": round(self.users_power, 4),
            "votes_power": round(self.votes_power, 4),
            "users_likelihood": self.users.figures() if self.users else None,
            "prior": {name: [round(float(share), 4) for share in np.exp(prior)] for name, prior in of.items()},
        }

    def _text(self, clues: Clues) -> Floats:
        return self.text.log_ratio(clues.text, len(clues))

    def _users(self, clues: Clues) -> Floats:
        if self.users is None:
            return np.zeros((len(clues), GRADES))
        return self.users_power * self.users.log_likelihood(clues.counts)

    def _votes(self, clues: Clues) -> Floats:
        total = np.zeros((len(clues), GRADES))
        for name, confusion in self.confusion.items():
            said = clues.votes[name].grades if name in clues.votes else np.full(len(clues), ABSTAINED)
            total += np.where(said[:, None] == ABSTAINED, 0.0, confusion.T[said])
        return total


def believed(log_prior: Floats, log_likelihood: Floats) -> Floats:
    """Return Bayes' rule [n, 4]."""
    belief: Floats = softmax(log_prior + log_likelihood, axis=1)
    return belief


def shifted(log_prior: Floats, log_likelihood: Floats, anchor: float) -> Floats:
    """Move a prior [4] to the pairs of ``log_likelihood`` [n, 4] by EM; ``anchor`` pairs of the old mix hold it."""
    start, moved = np.exp(log_prior), np.exp(log_prior)
    for _ in range(1000):
        counted = believed(np.log(moved), log_likelihood).sum(axis=0) + anchor * start
        before, moved = moved, counted / counted.sum()
        if np.abs(moved - before).max() < 1e-7:
            break
    return np.log(moved)


def measured(belief: Floats, grades: Integers) -> dict[str, Any]:
    """Compare a belief [n, 4] with the true ``grades`` [n].

    Returns:
        ``pairs``, ``accuracy`` of the most probable grade, its ``base_rate`` and ``quadratic_kappa`` (see
        ``trust.measure``); ``nll``, the mean negative log-likelihood in nats; ``calibration_error``: the gap between
        belief and accuracy over ten bins of belief, weighed by pairs (ECE: Naeini, Cooper and Hauskrecht, AAAI 2015).
    """
    of = trust.measure(belief.argmax(axis=1), grades, np.ones(len(grades), bool))
    found: dict[str, Any] = {name: of[name] for name in ("pairs", "accuracy", "base_rate", "quadratic_kappa")}
    if not len(grades):
        return found | {"nll": None, "calibration_error": None}
    most, right = belief.max(axis=1), belief.argmax(axis=1) == grades
    bins = np.minimum((most * 10).astype(np.int64), 9)
    gaps = np.abs(np.bincount(bins, most - right, 10)).sum() / len(grades)
    nll = _loss(np.log(np.maximum(belief, 1e-300)), grades)
    return found | {"nll": round(nll, 4), "calibration_error": round(float(gaps), 4)}


def _loss(logs: Floats, grades: Integers) -> float:
    """The mean negative log-likelihood of ``grades`` [n], given logarithms [n, 4] up to a constant; 0 of none."""
    return float(-log_softmax(logs, axis=1)[np.arange(len(grades)), grades].mean()) if len(grades) else 0.0


def _power(rest: Floats, evidence: Floats, grades: Integers) -> float:
    """Return the power in 0..1 of ``evidence`` (log-likelihoods [n, 4]) that foretells ``grades`` best."""

    def loss(power: float) -> float:
        return _loss(rest + power * evidence, grades) * len(grades) + (power - 1) ** 2 / (2 * _DOUBT**2)

    return float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x)


def _mix(grades: Integers, log_prior: Floats) -> Floats:
    """The mix of ``grades``, as logarithms, held in place by a few pairs of another."""
    counted = np.bincount(grades, minlength=GRADES) + _ANCHOR * np.exp(log_prior)
    mix: Floats = np.log(counted / counted.sum())
    return mix


def _too_few(seen: Integers) -> str:
    if len(seen) >= FEWEST_SEEN and len(np.unique(seen)) > 1:
        return ""
    return (
        f"users of the window saw {len(seen)} of the seed judgments that may be used; at least {FEWEST_SEEN}, of two"
        " grades, are needed"
    )


def _confusions(votes: Mapping[str, Votes], grades: Integers) -> dict[str, Floats]:
    """How each judge votes on pairs of each grade, as logarithms, smoothed by how it votes on all."""
    found = {}
    for name, of in votes.items():
        voted = of.grades != ABSTAINED
        counts = np.zeros((GRADES, GRADES))
        np.add.at(counts, (grades[voted], of.grades[voted]), 1)
        overall = (counts.sum(axis=0) + 1) / (counts.sum() + GRADES)
        found[name] = np.log((counts + _SMOOTHING * overall) / (counts.sum(axis=1, keepdims=True) + _SMOOTHING))
    return found
