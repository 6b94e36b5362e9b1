"""Quepid's JSON: a case with its ratings, ratings by grade (RRE), a book with its judges, and what its import takes.

As its exports write them (o19s/quepid, ``app/views/api/v1/export``, 2025); its tables are read by ``tables``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from serm.stream.judgments.source import Row, Source, Told, agreed
from serm.stream.judgments.trees import rows


def _list(source: Source, name: str) -> list[Any]:
    found = source.json
    listed = found.get(name) if isinstance(found, dict) else None
    return listed if isinstance(listed, list) else []


def case(source: Source) -> Told | None:
    """``queries`` of ``query_text`` (a case) or ``query`` (its ratings), each with ``ratings``: document -> rating."""
    queries = _list(source, "queries")
    if not any(isinstance(one, dict) and isinstance(one.get("ratings"), dict) for one in queries):
        return None
    return Told("a Quepid case", _of_case(queries))


def _of_case(queries: list[Any]) -> Iterator[Row]:
    """A query that has no rating yet is no row."""
    number = 0
    for one in queries:
        ratings = one.get("ratings") if isinstance(one, dict) else False
        if not isinstance(ratings, dict | None):
            number += 1
            yield Row(f"rating {number}", json.dumps(one), reason="it is no query with ratings")
            continue
        query = one.get("query_text", one.get("query"))
        for doc_id, rating in (ratings or {}).items():
            number += 1
            yield Row(f"rating {number}", json.dumps({doc_id: rating}), query, doc_id, rating)


def rated_by_grade(source: Source) -> Told | None:
    """Ratings for the Rated Ranking Evaluator: ``relevant_documents``: rating -> documents, of ``$query``."""
    queries = _list(source, "queries")
    if not any(isinstance(one, dict) and isinstance(one.get("relevant_documents"), dict) for one in queries):
        return None
    return Told("Quepid's ratings for RRE", _by_grade(queries))


def _by_grade(queries: list[Any]) -> Iterator[Row]:
    number = 0
    for one in queries:
        of = one if isinstance(one, dict) else {}
        rated, placed = of.get("relevant_documents"), of.get("placeholders")
        query = placed.get("$query") if isinstance(placed, dict) else None
        groups = rated.items() if isinstance(rated, dict) else ()
        for rating, documents in groups if isinstance(one, dict) else [(None, None)]:
            for doc_id in documents if isinstance(documents, list) else [None]:
                number += 1
                yield Row(f"rating {number}", json.dumps({rating: documents})[:1000], query, doc_id, rating)


def book(source: Source) -> Told | None:
    """``query_doc_pairs``, each with the ``judgements`` of its judges: the rating that most of them gave."""
    pairs = _list(source, "query_doc_pairs")
    return Told("a Quepid book", _of_book(pairs)) if pairs else None


def _of_book(pairs: list[Any]) -> Iterator[Row]:
    for number, one in enumerate(pairs, start=1):
        of = one if isinstance(one, dict) else {}
        judged = of.get("judgements")
        given = [each for each in judged if isinstance(each, dict)] if isinstance(judged, list) else []
        rating, reason = agreed(each.get("rating") for each in given if not each.get("unrateable"))
        where, raw = f"pair {number}", json.dumps(one)
        yield Row(where, raw, of.get("query_text"), of.get("doc_id"), rating, reason=reason)


def ratings(source: Source) -> Told | None:
    """``ratings``: what Quepid's import takes, a list of ``query_text``, ``doc_id`` and ``rating``."""
    listed = _list(source, "ratings")
    if not any(isinstance(one, dict) and {"query_text", "doc_id"} <= one.keys() for one in listed):
        return None
    return Told("Quepid's ratings", rows(listed, "rating"))
