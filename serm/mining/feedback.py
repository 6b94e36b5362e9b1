"""The user feedback agent: users click or engage, yet the champion says the document is bad."""

from __future__ import annotations

import ibis
from ibis.expr.types import BooleanValue

from serm.mining.opinion import Opinion, Thresholds


def welcomed(pairs: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    """Whether users clicked beyond what their misclicks explain, or engaged more than tau_u.

    A pair shown a hundred times has a click by mistake, so one click says little about it. What counts is clicks
    over expected clicks, less a standard error (see ``candidates.describe``); as published, it is any click.
    """
    clicked = pairs.clicks > 0 if thresholds.clicks is None else pairs.clicks_over_expected > thresholds.clicks
    return clicked | (pairs.engagement > thresholds.engagement)


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where (clicks or engagement U > tau_u) and f < tau_c; the stronger the more engaged users were.

    Reads clicks, impressions, clicks_over_expected, engagement (U, 0 to 1) and score (f, 0 to 3). Source: SERM,
    user feedback agent.
    """
    seen = pairs.clicks.cast("string") + " clicks in " + pairs.impressions.cast("string") + " impressions"
    reason = seen + ", engagement " + pairs.engagement.round(2).cast("string")
    return Opinion(
        chosen=welcomed(pairs, thresholds) & (pairs.score < thresholds.under_scored_below),
        strength=pairs.engagement,
        reason=reason + ", yet the champion expects grade " + pairs.score.round(2).cast("string"),
    )
