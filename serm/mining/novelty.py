"""The novelty agent: what the champion would show first for queries that the reference window lacks, or that rise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from serm.mining.opinion import Opinion, Thresholds

if TYPE_CHECKING:
    from ibis.expr.types import IntegerValue


def rise(late: IntegerValue, searches: IntegerValue, late_share: float) -> ibis.Value:
    """Return how many standard errors a query's count in the window's later half lies above ``late_share`` of it."""
    expected = searches * late_share
    return (late - expected) / (expected * (1 - late_share) + 1e-9).sqrt()


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where the query's novelty > tau_n or it rises, and f > tau_o; the stronger the newer.

    Reads novelty (0 to 1, of the query's cluster: see ``mining.clusters``), rise (standard errors) and score (f, 0
    to 3).
    """
    percent = (pairs.novelty * 100).round().cast("int64").cast("string")
    share = percent + " % of the searches for queries like this are new since the reference window"
    rising = "the query rises by " + pairs.rise.round(1).cast("string") + " standard errors"
    why = (pairs.novelty > thresholds.novelty).ifelse(share, rising)
    return Opinion(
        chosen=((pairs.novelty > thresholds.novelty) | (pairs.rise > thresholds.rise))
        & (pairs.score > thresholds.over_scored_above),
        strength=pairs.novelty + pairs.score,
        reason=why + ", and the champion would show the document (grade " + pairs.score.round(2).cast("string") + ")",
    )
