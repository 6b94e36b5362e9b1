"""The user feedback agent: users click or engage, yet the champion says the document is bad."""

from __future__ import annotations

import ibis
from ibis.expr.types import BooleanValue

from serm.mining.opinion import Opinion, Thresholds


def welcomed(pairs: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    """Whether users clicked, or engaged more than tau_u."""
    return (pairs.clicks > 0) | (pairs.engagement > thresholds.engagement)


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where (click or engagement U > tau_u) and f < tau_c; the stronger the more engaged users were.

    Reads clicks, impressions, engagement (U, 0 to 1) and score (f, 0 to 3). Source: SERM, user feedback agent.
    """
    seen = pairs.clicks.cast("string") + " clicks in " + pairs.impressions.cast("string") + " impressions"
    reason = seen + ", engagement " + pairs.engagement.round(2).cast("string")
    return Opinion(
        chosen=welcomed(pairs, thresholds) & (pairs.score < thresholds.under_scored_below),
        strength=pairs.engagement,
        reason=reason + ", yet the champion expects grade " + pairs.score.round(2).cast("string"),
    )
