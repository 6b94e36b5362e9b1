"""The click model agent: clicks freed from position bias say relevant, yet the champion says bad."""

from __future__ import annotations

import ibis
from ibis.expr.types import BooleanValue

from serm.mining.opinion import Opinion, Thresholds


def attracts(pairs: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    """Whether the click model's relevance counts as a click: R_cm > tau_cm."""
    return pairs.relevance > thresholds.relevance


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where R_cm > tau_cm and f < tau_c; the stronger the higher R_cm.

    Reads relevance (R_cm: what the click model says of the document, less one standard error, so that a lucky click
    does not pass for relevance; see ``serm.clicks``), attractiveness, standard_error and score (f, 0 to 3). Source:
    SERM, click model agent.
    """
    attractiveness = pairs.attractiveness.round(2).cast("string")
    error = pairs.standard_error.round(2).cast("string")
    return Opinion(
        chosen=attracts(pairs, thresholds) & (pairs.score < thresholds.under_scored_below),
        strength=pairs.relevance,
        reason="attractiveness " + attractiveness + " (standard error " + error + ") without position bias"
        ", yet the champion expects grade " + pairs.score.round(2).cast("string"),
    )
