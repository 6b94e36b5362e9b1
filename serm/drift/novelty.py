"""Queries and locales that a window has and its reference lacks, counted over all searches in the engine.

A search is one ``query_id``; a query is its text in a locale.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import ibis

EXAMPLES = 20

#: The normal quantile of one-sided 99 %.
Z = 2.326


@dataclass(frozen=True)
class Novelty:
    """What is new in a window; shares are of its searches, 0 to 1."""

    searches: int
    new_query_share: float
    expected_new_query_share: float
    """What chance alone would bring: the reference's chance that its next search is for an unseen query,
    estimated as the share of its searches whose query was seen once (Good 1953, after Turing)."""
    new_query_margin: float
    """How far the two shares may lie apart by sampling alone, one-sided at 99 %: the binomial error of the one
    and the error of Good and Turing's estimate (Esty 1983, Annals of Statistics 11)."""
    new_queries: list[dict[str, object]]
    """The most searched new queries: locale, query, searches; at most ``EXAMPLES``."""
    new_locales: dict[str, float]
    """New locale -> its share."""


def find(reference: ibis.Table, window: ibis.Table) -> Novelty:
    """Compare the IMPRESSIONS ``window`` with ``reference``; both have rows."""
    before, now = _searches_by_query(reference), _searches_by_query(window)
    new = now.anti_join(before, ["locale", "query"])
    known = before.aggregate(
        searches=before.searches.sum(),
        once=(before.searches == 1).sum(),
        twice=(before.searches == 2).sum(),
        locales=before.locale.collect(distinct=True),
    )
    seen = known.to_pyarrow().to_pylist()[0]
    totals = now.group_by("locale").aggregate(searches=now.searches.sum()).order_by("locale")
    by_locale = {row["locale"]: row["searches"] for row in totals.to_pyarrow().to_pylist()}
    searches = sum(by_locale.values())
    share = new.searches.sum().fill_null(0).to_pyarrow().as_py() / searches
    expected = seen["once"] / seen["searches"]
    error = (seen["once"] * (1 - expected) + 2 * seen["twice"]) / seen["searches"] ** 2
    top = new.order_by(ibis.desc("searches"), "locale", "query").limit(EXAMPLES)
    return Novelty(
        searches=searches,
        new_query_share=share,
        expected_new_query_share=expected,
        new_query_margin=Z * sqrt(share * (1 - share) / searches + error),
        new_queries=top.to_pyarrow().to_pylist(),
        new_locales={locale: count / searches for locale, count in by_locale.items() if locale not in seen["locales"]},
    )


def _searches_by_query(impressions: ibis.Table) -> ibis.Table:
    searches = impressions.select("locale", "query", "query_id").distinct()
    return searches.group_by("locale", "query").aggregate(searches=searches.count())
