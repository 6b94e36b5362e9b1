"""Judgments out, as OpenSearch judgment lists and TREC qrels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from serm.atomic import write_json, write_text
from serm.errors import UserError
from serm.stream.judgments.ratings import GRADES

Rated = tuple[str, str, float]
"""Query, doc_id, rating."""


def write(judgments: pa.Table, path: Path, ratings: Sequence[float] = GRADES) -> None:
    """Write JUDGMENTS of one locale to ``path``, atomically: a judgment list (``.json``), or qrels and its queries.

    Raises:
        UserError: more than one locale, or a query or doc_id that qrels cannot hold (it has white space).
    """
    locales = sorted(set(judgments["locale"].to_pylist()))
    if len(locales) > 1:
        raise UserError(
            f"{path}: the format has no locale and the judgments have {', '.join(locales)}; write one each."
        )
    columns = (judgments[name].to_pylist() for name in ("query", "doc_id", "grade"))
    rated = [(query, doc_id, ratings[grade]) for query, doc_id, grade in sorted(zip(*columns, strict=True))]
    if path.suffix == ".json":
        _write_list(path, rated)
    else:
        _write_qrels(path, rated)


def queries_path(qrels: Path) -> Path:
    """Where the queries of ``qrels`` are: a line each, id, tab, text. Qrels themselves have only ids."""
    return qrels.with_name(qrels.name + ".queries.tsv")


def _write_list(path: Path, rated: Sequence[Rated]) -> None:
    lists = [
        {"query": query, "ratings": [{"docId": doc_id, "rating": f"{rating:.3f}"} for _, doc_id, rating in group]}
        for query, group in groupby(rated, key=lambda one: one[0])
    ]
    write_json(path, {"name": path.stem, "type": "IMPORT_JUDGMENT", "judgmentRatings": lists})


def _write_qrels(path: Path, rated: Sequence[Rated]) -> None:
    # Ids follow from the texts: a kill between the two files leaves ids that lack a text, never another's.
    ids = {query: f"q{hashlib.sha256(query.encode()).hexdigest()[:16]}" for query in sorted({one[0] for one in rated})}
    for query, doc_id, _ in rated:
        if {"\t", "\n", "\r"} & set(query) or doc_id.split() != [doc_id]:
            raise UserError(f"{path}: qrels cannot hold {query!r} with {doc_id!r}; mend the white space.")
    write_text(queries_path(path), "".join(f"{query_id}\t{query}\n" for query, query_id in ids.items()))
    write_text(path, "".join(f"{ids[query]} 0 {doc_id} {rating:g}\n" for query, doc_id, rating in rated))
