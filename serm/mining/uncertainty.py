"""The model uncertainty agent: the champion spreads its belief over the grades."""

from __future__ import annotations

import ibis
import numpy as np
from numpy.typing import NDArray

from serm.mining.opinion import Opinion, Thresholds


def entropy(distribution: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return MU [n] in nats, 0 to ln 4: the entropy of each pair's Pr(grade) [n, 4]."""
    logarithm = np.log(distribution, out=np.zeros_like(distribution), where=distribution > 0)
    spread: NDArray[np.float64] = -(distribution * logarithm).sum(axis=1)
    return spread


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where MU > tau_mu; the stronger the higher the entropy.

    Reads uncertainty (MU). Source: SERM, model uncertainty agent.
    """
    return Opinion(
        chosen=pairs.uncertainty > thresholds.uncertainty,
        strength=pairs.uncertainty,
        reason="the grades' entropy is " + pairs.uncertainty.round(2).cast("string") + " nats of 1.39",
    )
