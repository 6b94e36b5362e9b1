"""What the texts of a pair say of its grade, all kinds of evidence together, as one calibrated likelihood ratio.

Features of one pair agree for the same reasons, so that judges multiplied as if independent would be far too sure. One
multinomial logistic regression sees them all at once and is calibrated as a whole; its belief over that of the seed
pairs' mix of grades is the likelihood ratio (Bayes' rule turned round), which any other prior can be put to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from serm.judging.judge import GRADES, Floats, Integers

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_LEAST = 1e-6
"""The least belief in a grade: of one that no seed judgment has, too."""


@dataclass(frozen=True)
class TextLikelihood:
    """The fitted regression."""

    regression: Pipeline | None
    """None where there are no features: all is as likely under each grade."""
    log_prior: Floats
    """[4], of the pairs that it was fitted to."""

    @classmethod
    def fit(cls, features: Mapping[str, Floats], grades: Integers) -> Self:
        """Fit to the features, [n, any] by kind of evidence, of pairs of known ``grades`` [n]."""
        shares = (np.bincount(grades, minlength=GRADES) + 1.0) / (len(grades) + GRADES)
        if not features or len(np.unique(grades)) < 2:
            return cls(None, np.log(shares))
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return cls(model.fit(np.hstack(list(features.values())), grades), np.log(shares))

    def log_ratio(self, features: Mapping[str, Floats], count: int) -> Floats:
        """Return [count, 4]: log P(features | grade), up to a term that is the same for all grades."""
        if self.regression is None or not count:
            return np.zeros((count, GRADES))
        belief = np.full((count, GRADES), _LEAST)
        belief[:, self.regression.classes_] = self.regression.predict_proba(np.hstack(list(features.values())))
        ratio: Floats = np.log(np.maximum(belief, _LEAST)) - self.log_prior
        return ratio
