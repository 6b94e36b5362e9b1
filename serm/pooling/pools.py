"""The documents to judge for drawn queries."""

from __future__ import annotations

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
from ibis.backends import BaseBackend

from serm import contracts
from serm.pairs.bm25 import BM25
from serm.relevance import document_text
from serm.relevance.interface import Embedder

SERVED, FOUND = 30, 10
"""Documents a query: at most so many of those that users were shown, most often shown first; and so many that BM25, and
that the encoder, finds."""
WHOLE, CANDIDATES = 20_000, 200
"""Up to so many documents of a locale the encoder searches all; of more, so many a query that BM25 ranks first."""


def pool(
    engine: BaseBackend, drawn: pa.Table, impressions: ibis.Table, documents: Path, encoder: Embedder
) -> tuple[pa.Table, pa.Table]:
    """Return the pairs to judge (query, locale, doc_id, served), and their documents (DOCUMENTS).

    ``served`` tells what the log shows of a query's documents; beside it stand BM25's and the encoder's finds, which
    may be served too. A document that is not in the catalogue is left out.

    Args:
        engine: where the impressions are.
        drawn: locale and query.
        impressions: IMPRESSIONS.
        documents: the catalogue.
        encoder: whose cosine finds.
    """
    key = ["locale", "query"]
    asked = ibis.memtable(drawn.select(key), schema=ibis.schema(dict.fromkeys(key, "string")))
    catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
    there = impressions.semi_join(asked, key).semi_join(catalogue, "doc_id")
    often = there.group_by(*key, "doc_id").aggregate(times=ibis._.count())
    place = ibis.row_number().over(group_by=key, order_by=[ibis.desc("times"), "doc_id"])
    served = engine.to_pyarrow(often.mutate(place=place).filter(ibis._.place < SERVED).select(*key, "doc_id"))
    pairs = {(row["query"], row["locale"], row["doc_id"]): True for row in served.to_pylist()}
    for locale in sorted(set(drawn["locale"].to_pylist())):
        queries = [row["query"] for row in drawn.to_pylist() if row["locale"] == locale]
        of_locale = catalogue.filter(catalogue.locale == locale).select("doc_id", "title", "body").order_by("doc_id")
        table = engine.to_pyarrow(of_locale)
        if table.num_rows:
            for query, doc_id in _found(queries, table, encoder):
                pairs.setdefault((query, locale, doc_id), False)
    rows = sorted(pairs)
    names = ("query", "locale", "doc_id")
    table = pa.table({name: pa.array([row[n] for row in rows], pa.string()) for n, name in enumerate(names)})
    table = table.append_column("served", pa.array([pairs[row] for row in rows], pa.bool_()))
    return table, documents_of(engine, table, documents)


def documents_of(engine: BaseBackend, pairs: pa.Table, documents: Path) -> pa.Table:
    """Return the DOCUMENTS that ``pairs`` (doc_id) name."""
    wanted = ibis.memtable(pairs.select(["doc_id"]), schema=ibis.schema({"doc_id": "string"}))
    catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
    found = engine.to_pyarrow(catalogue.semi_join(wanted, "doc_id").order_by("doc_id"))
    return contracts.conform(found, documents, contracts.DOCUMENTS)


def _found(queries: list[str], documents: pa.Table, encoder: Embedder) -> list[tuple[str, str]]:
    """Return (query, doc_id) that BM25 and the encoder's cosine find among ``documents``."""
    texts = list(map(document_text, documents["title"].to_pylist(), documents["body"].to_pylist()))
    ids, index = documents["doc_id"].to_pylist(), BM25(texts)
    by_words = [index.nearest(query, CANDIDATES) for query in queries]
    rows = (
        np.arange(len(texts)) if len(texts) <= WHOLE else np.unique([row for of in by_words for row in of]).astype(int)
    )
    pairs = [(query, ids[row]) for query, of in zip(queries, by_words, strict=True) for row in of[:FOUND]]
    if len(rows):
        passages = encoder.embed([texts[row] for row in rows], "passage")
        for query, vector in zip(queries, encoder.embed(queries, "query"), strict=True):
            nearest = np.argsort(-(passages @ vector), kind="stable")[:FOUND]
            pairs += [(query, ids[rows[place]]) for place in nearest]
    return pairs
