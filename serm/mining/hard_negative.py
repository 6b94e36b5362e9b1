"""The hard negative agent: documents that nobody was shown, though a search would find them for a mined window's query.

Logs only know what the engine showed. A model that learns from them alone never hears of the look-alikes that stand
just below the page, and will rank them first one day.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa

from serm.clicks import PAIR
from serm.mining.opinion import Opinion, Thresholds
from serm.pairs.bm25 import BM25
from serm.settings import MiningSettings

if TYPE_CHECKING:
    from serm.relevance import Model

_FOUND = pa.schema([(name, pa.string()) for name in (*PAIR, "found_by")])


def opinion(pairs: ibis.Table, thresholds: Thresholds) -> Opinion:
    """Choose what nobody was shown; the stronger the higher the champion's score f (0 to 3), so the harder.

    Reads impressions, found_by (``BM25`` or ``encoder``) and score. The judges say whether it is a negative.
    """
    return Opinion(
        chosen=pairs.impressions == 0,
        strength=pairs.score,
        reason="found by "
        + pairs.found_by
        + " and never shown, the champion expects grade "
        + pairs.score.round(2).cast("string"),
    )


def unseen(queries: pa.Table, known: pa.Table, documents: pa.Table, model: Model, options: MiningSettings) -> pa.Table:
    """Return query, locale, doc_id and found_by of the nearest documents that are not known yet.

    Args:
        queries: query, locale; the ones to search for.
        known: query, locale, doc_id; pairs that were shown or judged.
        documents: doc_id, locale, title, body; the catalogue.
        model: its encoder is one of the searchers.
        options: hard_negatives and hard_negatives_by are read.

    Returns:
        At most ``hard_negatives`` documents of the query's locale from each searcher, a pair once.
    """
    from serm.relevance import document_text  # torch: not for those who only want the agents

    taken = set(_rows(known, *PAIR))
    most = max(Counter((query, locale) for query, locale, _ in taken).values(), default=0)
    depth = most + options.hard_negatives * len(options.hard_negatives_by)
    catalogue: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for doc_id, locale, title, body in _rows(documents, "doc_id", "locale", "title", "body"):
        catalogue[locale][0].append(doc_id)
        catalogue[locale][1].append(document_text(title, body))
    asked: dict[str, list[str]] = defaultdict(list)
    for query, locale in _rows(queries, "query", "locale"):
        asked[locale].append(query)
    found: list[tuple[str, str, str, str]] = []
    for locale, here in asked.items():
        doc_ids, texts = catalogue[locale]
        for searcher in options.hard_negatives_by if texts else ():
            orders = SEARCHERS[searcher](here, texts, min(depth, len(texts)), model)
            for query, order in zip(here, orders, strict=True):
                fresh = [doc for row in order if (query, locale, doc := doc_ids[row]) not in taken]
                for doc in fresh[: options.hard_negatives]:
                    taken.add((query, locale, doc))
                    found.append((query, locale, doc, searcher))
    return pa.Table.from_pylist([dict(zip((*PAIR, "found_by"), row, strict=True)) for row in found], _FOUND)


def _by_words(queries: list[str], texts: list[str], depth: int, model: Model) -> list[list[int]]:
    """Return the rows of ``texts`` nearest by BM25; fewer where fewer share any token."""
    index = BM25(texts)
    return [index.nearest(query, depth) for query in queries]


def _by_meaning(queries: list[str], texts: list[str], depth: int, model: Model) -> list[list[int]]:
    """Return the rows of ``texts`` nearest by the encoder's cosine."""
    cosine = model.encoder.embed(queries, "query") @ model.encoder.embed(texts, "passage").T
    nearest: list[list[int]] = np.argsort(-cosine, axis=1, kind="stable")[:, :depth].tolist()
    return nearest


SEARCHERS = {"BM25": _by_words, "encoder": _by_meaning}


def _rows(table: pa.Table, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
