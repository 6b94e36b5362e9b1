"""An LLM judge's probabilities put right, and its narrow answers combined, by its votes on pairs of known grade.

A multinomial logistic regression on the logarithms of its grade distribution (Dirichlet calibration: Kull et al. 2019)
and on its answers to narrow questions. The grades weigh alike in it, as in ``serm.judging.offline``: how common a grade
is enters once, in the label model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from serm.judging.judge import ABSTAINED, GRADES, Floats, Integers
from serm.judging.llm.answer import highest
from serm.judging.llm.vote import Vote
from serm.settings.judging import CriterionSettings

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FEWEST = 10
"""Known pairs of each grade that the judge graded, with fewer of which nothing is changed."""
FOLDS = 5
LEAST = 0.01
"""Probability of a grade before and after: no judge excludes one."""


@dataclass(frozen=True)
class Calibrated:
    """What is made of a judge's votes on m other pairs."""

    known: list[Vote]
    """The votes on the known pairs, each by a regression on those of other queries."""
    model: LogisticRegression
    criteria: Sequence[CriterionSettings]

    def votes(self, given: Sequence[Vote]) -> list[Vote]:
        """Return the votes with calibrated distributions; with narrow questions, the likeliest grade too."""
        return _renewed(given, _predicted(self.model, _features(given, self.criteria)), self.criteria)


def calibrate(
    given: Sequence[Vote], grades: Integers, queries: Sequence[str], criteria: Sequence[CriterionSettings]
) -> Calibrated | None:
    """Fit on votes on k pairs of known ``grades`` [k]; None where there are too few.

    Args:
        given: [k], the judge's votes; abstentions do not count.
        grades: [k], 0 to 3.
        queries: [k]; pairs of one query stay together.
        criteria: the judge's narrow questions.
    """
    voted: Integers = np.flatnonzero([vote.grade != ABSTAINED for vote in given])
    counts = np.bincount(grades[voted], minlength=GRADES)
    if counts.min() < FEWEST or len({queries[row] for row in voted.tolist()}) < FOLDS:
        return None
    from sklearn.model_selection import StratifiedGroupKFold

    features, known = _features(given, criteria), grades[voted]
    groups = [queries[row] for row in voted.tolist()]
    apart = np.full((len(given), GRADES), 1 / GRADES)
    for rest, fold in StratifiedGroupKFold(FOLDS).split(voted, known, groups):
        apart[voted[fold]] = _predicted(_fit(features[voted[rest]], known[rest]), features[voted[fold]])
    return Calibrated(_renewed(given, apart, criteria), _fit(features[voted], known), criteria)


def calibration_error(distribution: Floats, grades: Integers) -> float | None:
    """Return the expected calibration error of the likeliest grade (Guo et al. 2017, ten bins), 0..1; None of no pair.

    The true grades weigh alike, as they do in a judge's ``distribution`` [n, 4]; ``grades`` [n] are the true ones.
    """
    if not len(grades):
        return None
    weights = 1 / np.bincount(grades, minlength=GRADES)[grades]
    confidence, right = distribution.max(axis=1), distribution.argmax(axis=1) == grades
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = np.bincount(bins, weights=weights * (right - confidence))
    return round(float(np.abs(gaps).sum() / weights.sum()), 4)


def _features(given: Sequence[Vote], criteria: Sequence[CriterionSettings]) -> Floats:
    """Return [n, 4 + answers]: centred log-probabilities, and answers from -2 to 2; 0 where the judge abstained."""
    logs = np.log(np.maximum([vote.distribution for vote in given], LEAST)).reshape(-1, GRADES)
    top = np.array([highest(one) for one in criteria], float)
    middle = (top / 2).tolist()
    answers = np.array([vote.answers or middle for vote in given], float).reshape(len(given), len(top))
    return np.hstack([logs - logs.mean(axis=1, keepdims=True), 4 * answers / top - 2])


def _fit(features: Floats, grades: Integers) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000, class_weight="balanced").fit(features, grades)


def _predicted(model: LogisticRegression, features: Floats) -> Floats:
    found = np.zeros((len(features), GRADES))
    if len(features):
        found[:, model.classes_] = model.predict_proba(features)
    found = np.maximum(found, LEAST)
    normed: Floats = found / found.sum(axis=1, keepdims=True)
    return normed


def _renewed(given: Sequence[Vote], found: Floats, criteria: Sequence[CriterionSettings]) -> list[Vote]:
    return [
        vote
        if vote.grade == ABSTAINED
        else replace(vote, distribution=of.tolist(), grade=int(of.argmax()) if criteria else vote.grade)
        for vote, of in zip(given, found, strict=True)
    ]
