"""The model disagreement agent: the champion contradicts itself when it is asked again."""

from __future__ import annotations

import ibis
import numpy as np
from numpy.typing import NDArray

from serm.mining.opinion import Opinion, Thresholds


def gap(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return MD [n]: the largest gap between any two of a pair's sampled expected grades [K, n], 0 to 3."""
    widest: NDArray[np.float64] = samples.max(axis=0) - samples.min(axis=0)
    return widest


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where MD > tau_md; the stronger the wider the gap.

    Reads disagreement (MD). Source: SERM, model disagreement agent; for a cross-encoder the sampled judgments
    are passes with dropout left on (Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016).
    """
    return Opinion(
        chosen=pairs.disagreement > thresholds.disagreement,
        strength=pairs.disagreement,
        reason="sampled scores lie " + pairs.disagreement.round(2).cast("string") + " grades apart",
    )
