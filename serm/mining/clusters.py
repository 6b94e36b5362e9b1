"""Clusters of queries that mean the like, and how far the reference window lacks each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ibis
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serm.clusters import cluster as clusters_of
from serm.settings import MiningSettings

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def emerging(window: ibis.Table, reference: ibis.Table, embed: Embed, options: MiningSettings) -> pa.Table:
    """Return query, locale and ``novelty`` of the window's most shown queries.

    The queries of both windows are clustered within their locale (k-means over ``embed``'s unit vectors). Had nothing
    changed, a cluster would have had its share of the window's impressions in the reference too, ``expected`` of them;
    it had ``before``. Novelty is ``1 - (before + 1) / expected``, within 0 to 1, the one more so that a cluster too
    small to have been seen does not count as new. A locale that the reference lacks is new throughout.

    Args:
        window: query, locale and shown (impressions) of each query of the window.
        reference: the same of the reference window.
        embed: query texts to unit vectors [n, dim].
        options: clustered_queries of each window, queries_a_cluster and seed are read.
    """
    (now, all_now), (before, all_before) = (_most_shown(queries, options) for queries in (window, reference))
    queries, locales = ([*now[name].to_pylist(), *before[name].to_pylist()] for name in ("query", "locale"))
    shown = np.concatenate([now["shown"].to_numpy(), before["shown"].to_numpy()]).astype(np.float64)
    locale, is_now = np.array(locales, dtype=str), np.arange(len(shown)) < now.num_rows
    vectors, novelty = embed(queries), np.zeros(now.num_rows)
    for one in np.unique(locale[is_now]):
        rows = np.flatnonzero(locale == one)
        cluster = clusters_of(vectors[rows], options.queries_a_cluster, options.seed)
        fresh, old = (np.bincount(cluster, shown[rows] * side[rows]) for side in (is_now, ~is_now))
        expected = np.maximum(fresh * all_before / max(all_now, 1), 1e-9)
        here = is_now[rows]
        novelty[rows[here]] = np.clip(1 - (old + 1) / expected, 0, 1)[cluster[here]]
    return pa.table({"query": now["query"], "locale": now["locale"], "novelty": novelty})


def _most_shown(queries: ibis.Table, options: MiningSettings) -> tuple[pa.Table, int]:
    """Return the queries shown most, and how many impressions all of them have."""
    top = queries.order_by(ibis.desc("shown"), "locale", "query").limit(options.clustered_queries)
    return top.to_pyarrow(), queries.shown.sum().fill_null(0).to_pyarrow().as_py()
