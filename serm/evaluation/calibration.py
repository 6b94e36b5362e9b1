"""How honest the grade distributions are: expected calibration error, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serm.evaluation.significance import bootstrap_counts
from serm.settings import EvaluationSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Calibration error (0 to 1, less is better) of both models over ``n`` queries of ``pairs`` pairs.

    ``low`` and ``high`` bound the ``difference`` (challenger - champion) at confidence 1 - alpha.
    """

    n: int
    pairs: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float


def calibration(
    queries: NDArray[np.int64],
    grades: NDArray[np.int64],
    distributions: Mapping[str, Floats],
    settings: EvaluationSettings,
) -> Calibration:
    """Compare the models' classwise expected calibration error, over all pairs of a test set.

    For each grade the pairs fall into ``calibration_bins`` bins of equal width by its predicted probability; the
    error is the gap between a bin's mean probability and the share of its pairs that have the grade, weighted by the
    bin's pairs, and averaged over the grades (Kull et al. 2019, "Beyond temperature scaling", equation 4). It is a
    figure of many pairs, not of one query, so the difference is compared by a bootstrap of whole queries, the same
    ones for both models: pairs of a query are not independent. Each error is somewhat too high (noise in a bin counts
    as error), alike in both models.

    Args:
        queries: the pairs' queries, 0 to n - 1, shape [pairs].
        grades: shape [pairs].
        distributions: ``champion`` and ``challenger``: Pr(grade), shape [pairs, 4].
        settings: bins, resamples, alpha and seed.
    """
    n = int(queries.max()) + 1
    sizes = np.bincount(queries, minlength=n)
    gaps = {
        name: _gaps(queries, grades, distributions[name], settings.calibration_bins, n)
        for name in ("champion", "challenger")
    }
    found = {name: float(_error(gap.sum(axis=0)) / len(queries)) for name, gap in gaps.items()}
    drawn = []
    for counts in bootstrap_counts(n, settings.permutations, settings.seed):
        errors = {name: _error(counts @ gap) for name, gap in gaps.items()}
        drawn.append((errors["challenger"] - errors["champion"]) / (counts @ sizes))
    low, high = np.quantile(np.concatenate(drawn), [settings.alpha / 2, 1 - settings.alpha / 2])
    return Calibration(
        n=n,
        pairs=len(queries),
        difference=found["challenger"] - found["champion"],
        low=float(low),
        high=float(high),
        **found,
    )


def _gaps(queries: NDArray[np.int64], grades: NDArray[np.int64], p: Floats, bins: int, n: int) -> Floats:
    """Return each query's sum, in each grade's bins, of predicted less observed, shape [n, 4 * bins]."""
    classes = p.shape[1]
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    cell = queries[:, None] * (classes * bins) + np.arange(classes) * bins + bin_of
    gap = p - (grades[:, None] == np.arange(classes))
    summed: Floats = np.bincount(cell.ravel(), gap.ravel(), n * classes * bins).astype(np.float64)
    return summed.reshape(n, classes * bins)


def _error(gaps: Floats) -> Floats:
    """Return the classwise error times the number of pairs; ``gaps`` has the grades' bins in its last axis."""
    error: Floats = np.abs(gaps).sum(axis=-1) / 4
    return error
