"""Queries and locales that a window has and its reference lacks, counted over all searches in the engine.

A search is one ``query_id``; a query is its text in a locale.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis

EXAMPLES = 20


@dataclass(frozen=True)
class Novelty:
    """What is new in a window; shares are of its searches, 0 to 1."""

    searches: int
    new_query_share: float
    expected_new_query_share: float
    """What chance alone would bring: the reference's chance that its next search is for an unseen query,
    estimated as the share of its searches whose query was seen once (Good 1953, after Turing)."""
    new_queries: list[dict[str, object]]
    """The most searched new queries: locale, query, searches; at most ``EXAMPLES``."""
    new_locales: dict[str, float]
    """New locale -> its share."""


def find(reference: ibis.Table, window: ibis.Table) -> Novelty:
    """Compare the IMPRESSIONS ``window`` with ``reference``; both have rows."""
    before, now = _searches_by_query(reference), _searches_by_query(window)
    new = now.anti_join(before, ["locale", "query"])
    known = before.aggregate(
        searches=before.searches.sum(), once=(before.searches == 1).sum(), locales=before.locale.collect(distinct=True)
    )
    seen = known.to_pyarrow().to_pylist()[0]
    by_locale = (
        now.group_by("locale").aggregate(searches=now.searches.sum()).order_by("locale").to_pyarrow().to_pylist()
    )
    searches = sum(row["searches"] for row in by_locale)
    top = new.order_by(ibis.desc("searches"), "locale", "query").limit(EXAMPLES)
    return Novelty(
        searches=searches,
        new_query_share=(new.searches.sum().fill_null(0).to_pyarrow().as_py()) / searches,
        expected_new_query_share=seen["once"] / seen["searches"],
        new_queries=top.to_pyarrow().to_pylist(),
        new_locales={
            row["locale"]: row["searches"] / searches for row in by_locale if row["locale"] not in seen["locales"]
        },
    )


def _searches_by_query(impressions: ibis.Table) -> ibis.Table:
    searches = impressions.select("locale", "query", "query_id").distinct()
    return searches.group_by("locale", "query").aggregate(searches=searches.count())
