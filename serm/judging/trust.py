"""How far a judge or a panel is to be trusted: its labels beside known grades."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from serm.judging.judge import ABSTAINED, GRADES, Integers, Votes

Figures = dict[str, float | int | None]


def measure(labels: Integers, truth: Integers, kept: NDArray[np.bool_]) -> Figures:
    """Compare the ``kept`` ones of ``labels`` [n] with ``truth`` [n].

    Returns:
        ``pairs`` (n), ``labelled`` (those that were kept) and their share ``keep_rate`` (0 of none), and over them
        ``accuracy``, ``base_rate`` (the accuracy of always saying the commonest grade) and ``quadratic_kappa``
        (Cohen's, quadratic weights, -1..1; 0 is chance). Null where nothing was kept, or where kappa is undefined
        because only one grade occurs.
    """
    said, true = labels[kept], truth[kept]
    labelled = int(kept.sum())
    figures: Figures = {
        "pairs": len(truth),
        "labelled": labelled,
        "keep_rate": round(labelled / max(len(truth), 1), 4),
    }
    if not labelled:
        return figures | {"accuracy": None, "base_rate": None, "quadratic_kappa": None}
    single = len(set(said) | set(true)) == 1
    kappa = math.nan if single else cohen_kappa_score(said, true, weights="quadratic", labels=range(GRADES))
    return figures | {
        "accuracy": round(float((said == true).mean()), 4),
        "base_rate": round(float(np.bincount(true).max() / len(true)), 4),
        "quadratic_kappa": None if math.isnan(kappa) else round(float(kappa), 4),
    }


def measure_judge(votes: Votes, truth: Integers) -> Figures:
    """Compare one judge's votes with ``truth`` [n]: as ``measure``, and its mean ``within_agreement``."""
    voted = votes.grades != ABSTAINED
    within = votes.within_agreement[voted].mean() if voted.any() else 0.0
    return measure(votes.grades, truth, voted) | {"within_agreement": round(float(within), 4)}
