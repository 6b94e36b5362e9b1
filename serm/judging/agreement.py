"""Level 2: when do the judges of a panel agree well enough for a label to be kept?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serm.judging.judge import ABSTAINED, GRADES, Floats, Integers, Votes

Method = Literal["posterior", "unanimous", "dawid-skene", "mace"]


@dataclass(frozen=True)
class Decision:
    """What a panel makes of n pairs."""

    grades: Integers
    """[n], the label; it counts only where ``kept``."""
    agreement: Floats
    """[n], 0..1: unanimous, the judges' mean agreement with themselves; else the label's posterior."""
    kept: NDArray[np.bool_]
    reasons: list[str]
    """Why a pair was dropped; empty where it was kept."""
    distribution: Floats | None = None
    """[n, 4], the posterior of each grade, where the method has one."""

    def withheld(self, rows: NDArray[np.bool_], reason: str) -> Decision:
        """Return the decision with the pairs of ``rows`` [n] dropped for another ``reason``."""
        reasons = [reason if held else of for held, of in zip(rows, self.reasons, strict=True)]
        return replace(self, kept=self.kept & ~rows, reasons=reasons)


def unanimous(votes: Mapping[str, Votes]) -> Decision:
    """Keep the pairs on which every judge gives the same grade, as published (SERM, level 2).

    A judge whose evidence says nothing of a pair does not sit on it; two at least must, or all of a smaller panel.
    """
    grades = np.stack([v.grades for v in votes.values()])
    sits = ~np.stack([v.silent for v in votes.values()])
    within = np.stack([v.within_agreement for v in votes.values()])
    highest = grades.max(axis=0)
    enough = sits.sum(axis=0) >= min(2, len(votes))
    kept = ((grades == highest) | ~sits).all(axis=0) & enough & (highest != ABSTAINED)
    reasons = [
        "" if keep else "the judges differ: " + _opinions(list(votes), column)
        for keep, column in zip(kept, grades.T, strict=True)
    ]
    agreement = (within * sits).sum(axis=0) / np.maximum(sits.sum(axis=0), 1)
    return Decision(highest, agreement, kept, reasons)


def confident(votes: Mapping[str, Votes], posterior: Floats, min_confidence: float) -> Decision:
    """Keep the pairs whose most probable label has at least ``min_confidence`` of the ``posterior`` [n, 4].

    A pair on which every judge abstained is not kept, however common its grade.
    """
    grades = posterior.argmax(axis=1)
    confidence = posterior.max(axis=1)
    opinions = np.stack([v.grades for v in votes.values()]).T
    judged = (opinions != ABSTAINED).any(axis=1)
    kept = judged & (confidence >= min_confidence)
    unsure = "the most probable grade has only {:.2f} of {:.2f}: "
    reasons = [
        ""
        if keep
        else (unsure.format(p, min_confidence) if known else "nobody judged it: ") + _opinions(list(votes), of)
        for keep, p, known, of in zip(kept, confidence, judged, opinions, strict=True)
    ]
    return Decision(grades, confidence, kept, reasons, posterior)


def dawid_skene(grades: Integers, known: Integers) -> Floats:
    """Return the posterior [n, 4] of each pair's true grade, given the judges' ``grades`` [judges, n].

    Dawid and Skene (1979), by crowd-kit's EM. ``known`` [n] holds the true grade where it is known (seed
    judgments), else ``ABSTAINED``: those pairs are held at their truth in every E-step. They tie each judge's
    confusion matrix to reality, without which EM over a few dependent judges drifts to the judges' shared error.
    A pair on which all judges abstained gets the prior.
    """
    from crowdkit.aggregation import DawidSkene

    votes = np.vstack([grades, known])
    judges, pairs = np.nonzero(votes != ABSTAINED)
    data = pd.DataFrame({"task": pairs, "worker": judges, "label": votes[judges, pairs]})
    truth = pd.Series(known)
    model = DawidSkene(n_iter=50)
    probabilities = model.fit_predict_proba(data, true_labels=truth[truth != ABSTAINED])
    posterior = probabilities.reindex(columns=range(GRADES), fill_value=0.0)
    return posterior.reindex(range(len(known))).fillna(posterior.mean()).to_numpy(dtype=np.float64)


def mace(grades: Integers, known: Integers) -> Floats:
    """Return the posterior [n, 4] of each pair's true grade, as ``dawid_skene`` does, by MACE.

    Hovy et al. (2013), by crowd-kit's variational EM: each judge either knows or guesses from a distribution of its
    own. Known grades vote beside the judges, as one whose competence shows.
    """
    from crowdkit.aggregation import MACE

    votes = np.vstack([grades, known])
    judges, pairs = np.nonzero(votes != ABSTAINED)
    said = votes[judges, pairs]
    found = np.unique(said)
    # crowd-kit 1.4 mixes the order of first appearance with the sorted one: by label, and judges numbered anew, both
    # are the same. Its restarts all start alike (one random state), so one is enough.
    order = np.lexsort((pairs, judges, said))
    tasks = pd.factorize(pairs[order])
    workers, _ = pd.factorize(judges[order])
    data = pd.DataFrame({"task": tasks[0], "worker": workers, "label": np.searchsorted(found, said[order])})
    model = MACE(n_restarts=1)
    fitted = model.fit_predict_proba(data).sort_index().to_numpy(dtype=np.float64)
    posterior = np.zeros((len(known), GRADES))
    posterior[:] = np.bincount(found.repeat(1), weights=fitted.mean(axis=0), minlength=GRADES)
    posterior[tasks[1]] = 0.0
    posterior[np.ix_(tasks[1], found)] = fitted
    return posterior


def _opinions(names: list[str], grades: Integers) -> str:
    said = ("abstained" if grade == ABSTAINED else str(grade) for grade in grades)
    return ", ".join(f"{name} {grade}" for name, grade in zip(names, said, strict=True)) + "."
