"""Queries drawn from a window of the log, in the engine, by a hash: the same window gives the same ones."""

from __future__ import annotations

from typing import Literal

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm.pairs.text import folded

Draw = Literal["stratified", "random", "pps", "top"]
LEAST_DOCUMENTS = 3
"""A query that was served fewer documents says little of a ranking, and is not drawn."""
_SPARE = 4
"""So many times the queries asked for are looked at, as some are taken or spellings of another."""


def draw(
    engine: BaseBackend,
    impressions: ibis.Table,
    count: int,
    how: Draw = "stratified",
    *,
    seed: int = 0,
    taken: pa.Array | None = None,
) -> pa.Table:
    """Return at most ``count`` queries: locale, query, searches, traffic (head, torso, tail), the first drawn first.

    Args:
        engine: where the impressions are.
        impressions: IMPRESSIONS, with texts as users wrote them, masked.
        count: how many.
        how: ``stratified``: as many of the queries with the first third of all searches (head) as of the second (torso)
            and the last (tail); ``random``: each query alike; ``pps``: with a chance proportional to its searches
            (systematic sampling, Madow 1949); ``top``: those with most searches.
        seed: of the hash.
        taken: folded texts that must not be drawn, in any spelling.
    """
    rows = impressions.filter(
        impressions["query"].notnull() & impressions.doc_id.notnull() & (impressions.locale != "")
    )
    asked = rows.group_by("locale", "query").aggregate(
        searches=ibis._.query_id.nunique(), documents=ibis._.doc_id.nunique()
    )
    asked = asked.filter((asked.documents >= LEAST_DOCUMENTS) & (asked["query"].strip() != ""))
    asked = asked.mutate(at=(f"{seed}\x1f" + asked.locale + "\x1f" + asked["query"]).hexdigest("md5"))
    total = asked.aggregate(total=asked.searches.sum())
    before = asked.searches.cumsum(order_by=[ibis.desc("searches"), "at"]) - asked.searches
    asked = asked.mutate(before=before, until=asked.searches.cumsum(order_by=["at"])).cross_join(total)
    share = asked.before / asked.total
    asked = asked.mutate(traffic=ibis.cases((share < 1 / 3, "head"), (share < 2 / 3, "torso"), else_="tail"))
    wanted = count * _SPARE
    if how == "stratified":
        place = ibis.row_number().over(group_by="traffic", order_by="at")
        chosen = asked.mutate(place=place).filter(ibis._.place < wanted)
    elif how == "pps":
        step = [(of * wanted / asked.total).floor() for of in (asked.until, asked.until - asked.searches)]
        picked = asked.filter((step[0] != step[1]) | (asked.total <= wanted))
        chosen = picked.mutate(place=(f"pps{seed}\x1f" + picked.at).hexdigest("md5"))
    else:
        order = [ibis.desc("searches"), "at"] if how == "top" else ["at"]
        chosen = asked.mutate(place=ibis.row_number().over(order_by=order)).filter(ibis._.place < wanted)
    found = engine.to_pyarrow(chosen.select("locale", "query", "searches", "traffic", "place", "at"))
    found = found.sort_by([(name, "ascending") for name in ("place", "traffic", "at")])
    return _apart(found, taken).slice(0, count).select(["locale", "query", "searches", "traffic"])


def _apart(found: pa.Table, taken: pa.Array | None) -> pa.Table:
    """Return the rows that are not taken, one a folded text: of two spellings the first."""
    if not found.num_rows:
        return found
    texts = folded(found["query"])
    first = pa.table({"text": texts, "row": range(len(texts))}).group_by("text", use_threads=False)
    rows = pc.sort_indices(first.aggregate([("row", "min")])["row_min"])
    firsts = first.aggregate([("row", "min")])["row_min"].take(rows)
    kept = found.take(firsts)
    if taken is None:
        return kept
    return kept.filter(pc.invert(pc.is_in(texts.take(firsts), value_set=taken)))
