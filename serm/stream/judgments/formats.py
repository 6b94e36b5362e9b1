"""The formats of judgment files: one small function each, which knows its own content.

A function returns the rows of a file that is of its format, and None of any other; ``FORMATS`` has them in the order
in which they are asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serm.errors import UserError
from serm.stream.judgments.lines import Lines, Separator, best, split

#: The names that a column may have, in lower case, with ``_`` for whatever is no letter or digit.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "query_text", "querytext", "search_query", "keywords", "keyword", "q"),
    "query_id": ("query_id", "queryid", "qid", "topic_id", "topicid", "topic"),
    "doc_id": (
        *("doc_id", "docid", "docno", "document_id", "documentid", "document", "doc"),
        *("corpus_id", "product_id", "asin", "passage_id", "pid"),
    ),
    "rating": (
        *("rating", "grade", "relevance", "relevancy", "rel", "judgment", "judgement"),
        *("esci_label", "label", "score"),
    ),
    "locale": ("locale", "product_locale", "language", "lang"),
}


@dataclass(frozen=True)
class Row:
    """One judgment as the file has it; nothing of it is checked."""

    where: str
    """``line 7`` or ``rating 7``, counted from 1."""
    raw: str
    query: object = None
    """The text, or where ``by_id`` the id."""
    doc_id: object = None
    rating: object = None
    locale: object = None
    by_id: bool = False
    reason: str = ""
    """Why the row is none, where its format cannot read it."""


@dataclass(frozen=True)
class Source:
    """A file to be read, and what its readers have to know."""

    path: Path
    data: bytes
    is_rating: Callable[[object], bool]
    queries: bool
    """Whether the texts of queries are given beside, by their ids."""

    @cached_property
    def text(self) -> str:
        """Bytes that are not UTF-8 stay as lone surrogates, so that only their rows are refused."""
        if self.data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return self.data.decode("utf-16", "replace")
        return self.data.decode("utf-8-sig", "surrogateescape")

    @cached_property
    def lines(self) -> Lines:
        """The text's lines."""
        return Lines(self.text)

    @cached_property
    def json(self) -> Any:
        """The file as one JSON value, whole lines of comments taken out; None where it is none."""
        for text in (self.text, "\n".join(line for _, line in self.lines.plain())):
            if text.lstrip()[:1] in ("{", "["):
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    continue
        return None


def _parquet(source: Source) -> Iterator[Row] | None:
    """A Parquet file with columns of known names, such as ESCI's examples."""
    if not source.data.startswith(b"PAR1"):
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(source.data))
        columns = _columns(file.schema_arrow.names)
        table = file.read(columns=list(columns.values())) if columns else None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.path}: not a readable Parquet file ({str(error).splitlines()[0][:200]}).") from error
    if table is None:
        raise UserError(f"{source.path}: no columns of query, document and rating; it has {file.schema_arrow.names}.")
    return _rows(table.to_pylist(), "row")


def _judgment_list(source: Source) -> Iterator[Row] | None:
    """OpenSearch's Search Relevance Workbench: ``judgmentRatings``; as imported, or as its API gives it back."""
    found = source.json
    if isinstance(found, dict) and isinstance(outer := found.get("hits"), dict):
        if not isinstance(hits := outer.get("hits"), list):
            return None
        (found, *_) = [one.get("_source") for one in hits if isinstance(one, dict)] or [None]
    if not isinstance(found, dict) or not isinstance(lists := found.get("judgmentRatings"), list):
        return None
    return _of_lists(lists)


def _of_lists(lists: list[Any]) -> Iterator[Row]:
    number = 0
    for one in lists:
        ratings = one.get("ratings") if isinstance(one, dict) else None
        for each in ratings if isinstance(ratings, list) else [None]:
            number += 1
            where, raw = f"rating {number}", json.dumps(each if isinstance(ratings, list) else one)
            if not isinstance(each, dict):
                yield Row(where, raw, reason="it is no rating of a query")
            else:
                yield Row(where, raw, one.get("query"), each.get("docId"), each.get("rating"))


def _json_rows(source: Source) -> Iterator[Row] | None:
    """A JSON list of objects, or an object a line, with fields of known names."""
    found = source.json
    if isinstance(found, list) and any(_columns(one) for one in found[:100] if isinstance(one, dict)):
        return _rows(found, "row")
    first = next(iter(source.lines.sample(1)), "")
    if first.startswith("{") and _columns(_object(first) or {}):
        return _rows_of_lines(source)
    return None


def _rows_of_lines(source: Source) -> Iterator[Row]:
    for number, line in source.lines.plain():
        for row in _rows([_object(line)], "row"):
            yield Row(f"line {number}", line, row.query, row.doc_id, row.rating, row.locale, row.by_id, row.reason)


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rank_eval(source: Source) -> Iterator[Row] | None:
    """Elasticsearch's ranking evaluation: ``requests`` of an id (with queries beside), or a text, and its ratings."""
    found = source.json
    if not isinstance(found, dict) or not isinstance(requests := found.get("requests"), list):
        return None
    pairs = [(one.get("id"), one.get("ratings")) if isinstance(one, dict) else (None, None) for one in requests]
    return _of_pairs(
        source, [(query, each) for query, some in pairs for each in (some if isinstance(some, list) else [None])]
    )


def _of_pairs(source: Source, pairs: list[tuple[Any, Any]]) -> Iterator[Row]:
    for number, (query, one) in enumerate(pairs, start=1):
        where, raw = f"rating {number}", json.dumps(one)
        if isinstance(one, dict):
            yield Row(where, raw, query, one.get("_id"), one.get("rating"), by_id=source.queries)
        else:
            yield Row(where, raw, reason="it is no rating of a query")


def _pytrec(source: Source) -> Iterator[Row] | None:
    """pytrec_eval's qrels: ``{query: {document: rating}}``; ids where queries are given beside, else texts."""
    found = source.json
    if not isinstance(found, dict) or not found or not all(isinstance(one, dict) for one in found.values()):
        return None
    rated = [(query, {"_id": doc, "rating": rating}) for query, of in found.items() for doc, rating in of.items()]
    return _of_pairs(source, rated)


def _other_json(source: Source) -> Iterator[Row] | None:
    """JSON of no known kind is told here, before its text is taken for a table."""
    if source.json is None and source.path.suffix != ".json":
        return None
    raise UserError(
        f"{source.path}: not an OpenSearch judgment list (judgmentRatings), nor a list of objects with query, doc_id "
        "and rating."
    )


def _table(source: Source) -> Iterator[Row] | None:
    """A header with known names, then a row a line: Quepid, BEIR's qrels, ESCI, spreadsheets."""
    first = next(iter(source.lines.sample(1)), "")
    for separator in ("\t", ",", ";"):
        header = split(first, separator, first.count(separator) + 1)
        if columns := _columns(header):
            places = {name: header.index(column) for name, column in columns.items()}
            return _of_table(source, separator, len(header), places)
    return None


def _of_table(source: Source, separator: Separator, width: int, places: Mapping[str, int]) -> Iterator[Row]:
    records = source.lines.records(separator, width)
    next(records)
    for number, fields, raw in records:
        where = f"line {number}"
        if len(fields) != width:
            yield Row(where, raw, reason=f"it has {len(fields)} fields, not {width}")
            continue
        query, doc_id, rating, locale = (
            fields[places[name]] if name in places else None for name in ("query", "doc_id", "rating", "locale")
        )
        by_id = query is None
        yield Row(where, raw, fields[places["query_id"]] if by_id else query, doc_id, rating, locale, by_id)


def _bare(source: Source) -> Iterator[Row] | None:
    """No header. Four fields are TREC's qrels (query id, iteration, document, rating); three leave the iteration out.

    Three fields cut at white space are NTCIR's, with the query's id; those of a table have its id where the queries
    are given beside, and else its text.
    """
    layouts: tuple[tuple[Separator, int], ...] = (
        ("\t", 4),
        ("\t", 3),
        (None, 4),
        (",", 4),
        (",", 3),
        (";", 3),
        (None, 3),
    )
    separator, width = best(source.lines, layouts, source.is_rating)
    return _of_bare(source, separator, width)


def _of_bare(source: Source, separator: Separator, width: int) -> Iterator[Row]:
    by_id = width == 4 or separator is None or source.queries
    for number, fields, raw in source.lines.records(separator, width):
        if len(fields) == width:
            yield Row(f"line {number}", raw, fields[0], fields[-2], fields[-1], by_id=by_id)
        else:
            yield Row(f"line {number}", raw, reason=f"it has {len(fields)} fields, not {width}")


FORMATS: tuple[Callable[[Source], Iterator[Row] | None], ...] = (
    _parquet,
    _judgment_list,
    _json_rows,
    _rank_eval,
    _pytrec,
    _other_json,
    _table,
    _bare,
)


def _columns(names: Iterable[str]) -> dict[str, str]:
    """Return what each of ``names`` is in ``_NAMES``; nothing where query, document or rating is missing."""
    plain = {re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_"): name for name in reversed(list(names))}
    found = {
        kind: next(plain[name] for name in known if name in plain)
        for kind, known in _NAMES.items()
        if any(name in plain for name in known)
    }
    return found if {"doc_id", "rating"} <= found.keys() and {"query", "query_id"} & found.keys() else {}


def _rows(found: Iterable[object], what: str) -> Iterator[Row]:
    for number, one in enumerate(found, start=1):
        where, raw = f"{what} {number}", json.dumps(one, default=str)
        columns = _columns(one) if isinstance(one, dict) else {}
        if not isinstance(one, dict) or not columns:
            yield Row(where, raw, reason="it has no query, document and rating")
            continue
        query, by_id, doc_id, rating, locale = (
            one.get(columns.get(name, "")) for name in ("query", "query_id", "doc_id", "rating", "locale")
        )
        yield Row(where, raw, by_id if query is None else query, doc_id, rating, locale, "query" not in columns)
