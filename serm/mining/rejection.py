"""The user rejection agent, the mirror of user feedback: users saw and passed by, yet the champion scores high.

The published agents find under-scored pairs only; a document that stands too high shows in what users skip.
"""

from __future__ import annotations

import ibis
from ibis.expr.types import BooleanValue, FloatingValue

from serm.mining.opinion import Opinion, Thresholds


def ceiling(pairs: ibis.Table) -> FloatingValue:
    """Return the most that users may like the document: attractiveness and one standard error more."""
    return pairs.attractiveness + pairs.standard_error


def rejected(pairs: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    """Whether users who examined the document skipped it, or disliked it more than they dislike others.

    Skipped: even one standard error up, attractiveness stays below tau_s. A pair that few examined has a wide error,
    so it is not skipped yet.
    """
    return (ceiling(pairs) < thresholds.skipped_below) | (pairs.dislike_rate > thresholds.dislike_rate)


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where users skipped or disliked, and f > tau_o; the stronger the less they can have liked it.

    Reads attractiveness, standard_error, dislike_rate, impressions, negatives and score (f, 0 to 3).
    """
    seen = pairs.impressions.cast("string") + " impressions, " + pairs.negatives.cast("string") + " dislikes"
    attractiveness = pairs.attractiveness.round(2).cast("string")
    error = pairs.standard_error.round(2).cast("string")
    return Opinion(
        chosen=rejected(pairs, thresholds) & (pairs.score > thresholds.over_scored_above),
        strength=-ceiling(pairs),
        reason=seen + ", attractiveness " + attractiveness + " (standard error " + error + ") without position bias"
        ", yet the champion expects grade " + pairs.score.round(2).cast("string"),
    )
