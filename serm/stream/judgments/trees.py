"""Judgments as JSON: OpenSearch's lists, rows of any names, Elasticsearch's rank_eval, pytrec_eval's qrels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from serm.stream.judgments.source import NAMES, Row, Source, Told, columns

_OPAQUE = re.compile(r"[A-Za-z]{0,8}[-_:.]?\d+|[0-9a-f-]{8,}")
_DEEPEST = 20


def judgment_list(source: Source) -> Told | None:
    """OpenSearch's Search Relevance Workbench: ``judgmentRatings``; as imported, or as its API gives it back."""
    found = source.json
    if isinstance(found, dict) and isinstance(outer := found.get("hits"), dict):
        if not isinstance(hits := outer.get("hits"), list):
            return None
        (found, *_) = [one.get("_source") for one in hits if isinstance(one, dict)] or [None]
    if not isinstance(found, dict) or not isinstance(lists := found.get("judgmentRatings"), list):
        return None
    return Told("an OpenSearch judgment list", _of_lists(lists))


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


def json_rows(source: Source) -> Told | None:
    """A JSON list of objects, or an object a line, with fields of known names."""
    found = source.json
    if isinstance(found, list) and any(columns(one) for one in found[:100] if isinstance(one, dict)):
        return Told("a JSON list of objects", rows(found, "row"))
    first = next(iter(source.lines.sample(1)), "")
    if first.startswith("{") and columns(_object(first) or {}):
        return Told("JSON lines", _rows_of_lines(source))
    return None


def _rows_of_lines(source: Source) -> Iterator[Row]:
    for number, line in source.lines.plain():
        for row in rows([_object(line)], "row"):
            yield Row(f"line {number}", line, row.query, row.doc_id, row.rating, row.locale, row.by_id, row.reason)


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def rows(found: Iterable[object], what: str) -> Iterator[Row]:
    """Yield the rows of objects with fields of known names."""
    for number, one in enumerate(found, start=1):
        where, raw = f"{what} {number}", json.dumps(one, default=str)
        named = columns(one) if isinstance(one, dict) else {}
        if not isinstance(one, dict) or not named:
            yield Row(where, raw, reason="it has no query, document and rating")
            continue
        query, by_id, doc_id, rating, locale = (
            one.get(named.get(name, "")) for name in ("query", "query_id", "doc_id", "rating", "locale")
        )
        yield Row(where, raw, by_id if query is None else query, doc_id, rating, locale, "query" not in named)


def rank_eval(source: Source) -> Told | None:
    """Elasticsearch's ranking evaluation: ``requests`` with their ratings.

    A request's query is the text that it searches for (``params``, ``request``), or else its ``id``; where queries are
    given beside, the text of that id.
    """
    found = source.json
    if not isinstance(found, dict) or not isinstance(requests := found.get("requests"), list):
        return None
    pairs: list[tuple[Any, Any]] = []
    without = 0
    for one in requests:
        of = one if isinstance(one, dict) else {}
        text = None if source.queries else _searched(of)
        without += text is None and isinstance(of.get("ratings"), list)
        ratings = of.get("ratings")
        query = of.get("id") if text is None else text
        pairs += [(query, each) for each in (ratings if isinstance(ratings, list) else [None])]
    note = ""
    if without and not source.queries:
        note = (
            f"of {len(requests):,} requests {without:,} do not tell what they search for: their ids are taken for the"
            " queries; give their texts with --queries"
        )
    return Told("Elasticsearch's rank_eval", _of_pairs(source, pairs), note)


def _searched(request: dict[str, Any]) -> str | None:
    """Return the one text that a request searches for; None where there is none, or several."""
    params = request.get("params")
    if isinstance(params, dict):
        plain = {re.sub(r"[^a-z0-9]+", "_", str(name).lower()): value for name, value in params.items()}
        named = [plain[name] for name in (*NAMES["query"], "query_string") if isinstance(plain.get(name), str)]
        texts = named[:1] or [value for value in params.values() if isinstance(value, str)]
        if len(set(texts)) == 1:
            return str(texts[0])
    found = set(_texts(request.get("request"), 0))
    return found.pop() if len(found) == 1 else None


def _texts(tree: Any, depth: int) -> Iterator[str]:
    """Yield the texts that a search body looks for: ``query`` as text, and the fields of match clauses."""
    if depth > _DEEPEST:
        return
    if isinstance(tree, list):
        for one in tree:
            yield from _texts(one, depth + 1)
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if name == "query" and isinstance(value, str):
            yield value
        elif str(name).startswith("match") and isinstance(value, dict):
            yield from (one for one in value.values() if isinstance(one, str) and "query" not in value)
            yield from _texts(value, depth + 1)
        else:
            yield from _texts(value, depth + 1)


def _of_pairs(source: Source, pairs: list[tuple[Any, Any]]) -> Iterator[Row]:
    for number, (query, one) in enumerate(pairs, start=1):
        where, raw = f"rating {number}", json.dumps(one)
        if isinstance(one, dict):
            yield Row(where, raw, query, one.get("_id"), one.get("rating"), by_id=source.queries)
        else:
            yield Row(where, raw, reason="it is no rating of a query")


def pytrec(source: Source) -> Told | None:
    """pytrec_eval's qrels: ``{query: {document: rating}}``; ids where queries are given beside, else texts."""
    found = source.json
    if not isinstance(found, dict) or not found or not all(isinstance(one, dict) for one in found.values()):
        return None
    rated = [(query, {"_id": doc, "rating": rating}) for query, of in found.items() for doc, rating in of.items()]
    note = ""
    if not source.queries and all(_OPAQUE.fullmatch(query) for query in found):
        note = f"its queries, such as {next(iter(found))[:40]!r}, look like ids; if so, give their texts with --queries"
    return Told("pytrec_eval's qrels", _of_pairs(source, rated), note)
