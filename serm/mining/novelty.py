"""The novelty agent: what the champion would show first for queries of a kind that nobody has judged yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from serm.mining.opinion import Opinion, Thresholds

if TYPE_CHECKING:
    from ibis.expr.types import IntegerValue

#: Characters of a gram; a query is padded with a space on either side, so that the shortest has one.
GRAM = 3


def unfamiliar(queries: ibis.Table, judged: ibis.Table) -> ibis.Table:
    """Return query, locale and ``novelty``: the share (0 to 1) of a query's character trigrams that no judged query
    of its locale has. So a locale without judgments is all new.

    Both tables have query and locale; the first has no query twice.
    """
    known = _grams(judged.select("query", "locale")).select("locale", "gram").distinct().mutate(known=1)
    grams = _grams(queries.select("query", "locale")).left_join(known, ["locale", "gram"])
    return grams.group_by("query", "locale").aggregate(novelty=1 - grams.known.count() / grams.count())


def rise(late: IntegerValue, searches: IntegerValue, late_share: float) -> ibis.Value:
    """Return how many standard errors a query's count in the window's later half lies above ``late_share`` of it."""
    expected = searches * late_share
    return (late - expected) / (expected * (1 - late_share) + 1e-9).sqrt()


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose where the query's novelty > tau_n or it rises, and f > tau_o; the stronger the newer.

    Reads novelty (0 to 1), rise (standard errors) and score (f, 0 to 3).
    """
    share = (pairs.novelty * 100).round().cast("int64").cast("string") + " % of the query is new to the judgments"
    rising = "the query rises by " + pairs.rise.round(1).cast("string") + " standard errors"
    why = (pairs.novelty > thresholds.novelty).ifelse(share, rising)
    return Opinion(
        chosen=((pairs.novelty > thresholds.novelty) | (pairs.rise > thresholds.rise))
        & (pairs.score > thresholds.over_scored_above),
        strength=pairs.novelty + pairs.score,
        reason=why + ", and the champion would show the document (grade " + pairs.score.round(2).cast("string") + ")",
    )


def _grams(queries: ibis.Table) -> ibis.Table:
    text = " " + queries.query.lower() + " "
    starts = ibis.range(0, ibis.greatest(text.length() - GRAM + 1, 1))
    return queries.mutate(text=text, start=starts.unnest()).mutate(gram=ibis._.text.substr(ibis._.start, GRAM))
