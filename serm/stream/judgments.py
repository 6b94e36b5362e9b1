"""Judgments in and out as OpenSearch judgment lists and TREC qrels.

Both hold a query, a document and a rating, in one locale. What else JUDGMENTS has (rationale, source, cycle, panel,
agreement) they cannot hold; ``read`` gives it the values of judgments that people made before the first cycle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from serm import contracts
from serm.atomic import write_json, write_text
from serm.errors import UserError

Rated = tuple[str, str, float]
"""Query, doc_id, rating."""
GRADES = (0.0, 1.0, 2.0, 3.0)
"""The rating of each grade, where a list uses the grades themselves."""


def read(path: Path, locale: str, ratings: Sequence[float] = GRADES) -> pa.Table:
    """Return the judgments of ``path`` as JUDGMENTS of ``locale``, sorted, with source ``seed`` and cycle 0.

    ``path`` is an OpenSearch judgment list (``.json``) or TREC qrels with its queries beside it
    (``queries_path``); ``ratings`` are its four ratings of grade 0 to 3, for example 0, 1, 10, 100 for ESCI's.

    Raises:
        UserError: the file is not of its format, a rating is none of ``ratings``, or a pair is rated twice.
    """
    rated = _read_list(path) if path.suffix == ".json" else _read_qrels(path)
    grade_of = {rating: grade for grade, rating in enumerate(ratings)}
    rows: dict[tuple[str, str], int] = {}
    for query, doc_id, rating in rated:
        if rating not in grade_of:
            raise UserError(f"{path}: rating {rating:g} of {doc_id!r} for {query!r} is none of {tuple(ratings)}.")
        if (query, doc_id) in rows:
            raise UserError(f"{path}: {doc_id!r} is rated twice for {query!r}; keep one.")
        rows[query, doc_id] = grade_of[rating]
    pairs = sorted(rows)
    columns = {
        "query": [query for query, _ in pairs],
        "locale": [locale] * len(pairs),
        "doc_id": [doc_id for _, doc_id in pairs],
        "grade": [rows[pair] for pair in pairs],
        "rationale": pa.nulls(len(pairs), pa.string()),
        "source": ["seed"] * len(pairs),
        "cycle": [0] * len(pairs),
        "panel_version": pa.nulls(len(pairs), pa.string()),
        "agreement": pa.nulls(len(pairs), pa.float64()),
    }
    return contracts.conform(pa.table(columns), path, contracts.JUDGMENTS)


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


def _read_list(path: Path) -> Iterable[Rated]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))["judgmentRatings"]
        return [(one["query"], each["docId"], float(each["rating"])) for one in lists for each in one["ratings"]]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an OpenSearch judgment list ({type(error).__name__}: {error}).") from error


def _write_list(path: Path, rated: Sequence[Rated]) -> None:
    lists = [
        {"query": query, "ratings": [{"docId": doc_id, "rating": f"{rating:.3f}"} for _, doc_id, rating in group]}
        for query, group in groupby(rated, key=lambda one: one[0])
    ]
    write_json(path, {"name": path.stem, "type": "IMPORT_JUDGMENT", "judgmentRatings": lists})


def _read_qrels(path: Path) -> Iterable[Rated]:
    queries = {fields[0]: fields[1] for _, fields in _lines(queries_path(path), "\t", 2)}
    for number, (query_id, _, doc_id, rating) in _lines(path, None, 4):
        try:
            yield queries[query_id], doc_id, float(rating)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: line {number}: {error} is no rating, or no query of its queries file.") from error


def _lines(path: Path, separator: str | None, count: int) -> Iterable[tuple[int, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split(separator)
        if line and len(fields) != count:
            raise UserError(f"{path}: line {number} has {len(fields)} fields, not {count}.")
        if line:
            yield number, fields


def _write_qrels(path: Path, rated: Sequence[Rated]) -> None:
    ids = {query: f"q{number}" for number, query in enumerate(sorted({query for query, _, _ in rated}), start=1)}
    for query, doc_id, _ in rated:
        if {"\t", "\n", "\r"} & set(query) or doc_id.split() != [doc_id]:
            raise UserError(f"{path}: qrels cannot hold {query!r} with {doc_id!r}; mend the white space.")
    write_text(queries_path(path), "".join(f"{query_id}\t{query}\n" for query, query_id in ids.items()))
    write_text(path, "".join(f"{ids[query]} 0 {doc_id} {rating:g}\n" for query, doc_id, rating in rated))
