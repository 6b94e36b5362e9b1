"""Judgments as tables of text, with a header or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from serm.errors import UserError
from serm.stream.judgments.lines import Separator, best, split
from serm.stream.judgments.source import NAMES, Row, Source, Told, agreed, columns, kinds

_SEPARATORS = ("\t", ",", ";")
_SAMPLE = 200


def headed(source: Source) -> Told | None:
    """A header with known names, then a row a line: Quepid, BEIR's qrels, ESCI, spreadsheets."""
    for separator, header in _headers(source):
        if named := columns(header):
            places = {name: header.index(column) for name, column in named.items()}
            told = ", ".join(
                repr(column) for name, column in named.items() if name != "query_id" or "query" not in named
            )
            return Told(f"a table with the columns {told}", _of_table(source, separator, len(header), places))
    return None


def _headers(source: Source) -> Iterator[tuple[str, list[str]]]:
    first = next(iter(source.lines.sample(1)), "")
    for separator in _SEPARATORS:
        yield separator, split(first, separator, first.count(separator) + 1)


def _of_table(source: Source, separator: Separator, width: int, places: Mapping[str, int]) -> Iterator[Row]:
    for where, fields, raw in _records(source, separator, width):
        if len(fields) != width:
            yield Row(where, raw, reason=f"it has {len(fields)} fields, not {width}")
            continue
        query, doc_id, rating, locale = (
            fields[places[name]] if name in places else None for name in ("query", "doc_id", "rating", "locale")
        )
        by_id = query is None
        yield Row(where, raw, fields[places["query_id"]] if by_id else query, doc_id, rating, locale, by_id)


def _records(source: Source, separator: Separator, width: int) -> Iterator[tuple[str, list[str], str]]:
    """Yield where, fields and text of each record after the header."""
    records = source.lines.records(separator, width)
    next(records)
    yield from ((f"line {number}", fields, raw) for number, fields, raw in records)


def of_judges(source: Source) -> Told | None:
    """A header of query, document and a column a judge, as Quepid writes a book: the rating that most of them gave.

    Raises:
        UserError: it is a header that lacks one of query, document and rating.
    """
    for separator, header in _headers(source):
        found = kinds(header)
        of_query = found.get("query", found.get("query_id"))
        if any(map(source.is_rating, header)) or len(found.keys() & {"query", "query_id", "doc_id", "rating"}) < 2:
            continue
        judges = [place for place, name in enumerate(header) if name not in found.values()]
        if of_query is not None and "doc_id" in found and _are_ratings(source, separator, len(header), judges):
            places = {name: header.index(column) for name, column in found.items()}
            told = f"a table with a column of ratings for each of {len(judges)} judges"
            return Told(told, _of_each(source, separator, len(header), places, judges))
        there = {"query" if name == "query_id" else name for name in found}
        lacks = next(name for name in ("query", "doc_id", "rating") if name not in there)
        raise UserError(
            f"{source.path}: its header ({', '.join(name[:40] for name in header[:20])}) has no column that is called"
            f" as a {lacks} is; call it {', '.join(NAMES[lacks][:3])} or the like."
        )
    return None


def _are_ratings(source: Source, separator: Separator, width: int, places: Sequence[int]) -> bool:
    """Whether the columns hold ratings and blanks, and some ratings."""
    some = False
    for number, (_, fields, _) in enumerate(_records(source, separator, width)):
        if number == _SAMPLE:
            break
        cells = [fields[place] for place in places if len(fields) == width and fields[place].strip()]
        if not all(map(source.is_rating, cells)):
            return False
        some |= bool(cells)
    return some


def _of_each(
    source: Source, separator: Separator, width: int, places: Mapping[str, int], judges: Sequence[int]
) -> Iterator[Row]:
    for where, fields, raw in _records(source, separator, width):
        if len(fields) != width:
            yield Row(where, raw, reason=f"it has {len(fields)} fields, not {width}")
            continue
        rating, reason = agreed(fields[place] for place in judges)
        by_id = "query" not in places
        query, locale = fields[places["query_id" if by_id else "query"]], places.get("locale")
        of_locale = None if locale is None else fields[locale]
        yield Row(where, raw, query, fields[places["doc_id"]], rating, of_locale, by_id, reason)


def bare(source: Source) -> Told | None:
    """No header. Four fields are TREC's qrels (query id, iteration, document, rating); three leave the iteration out.

    Three fields cut at white space are NTCIR's, with the query's id; those of a table have its id where the queries
    are given beside, and else its text.

    Raises:
        UserError: the first line looks like a header, or no line looks like a judgment.
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
    (head,) = source.lines.sample(1) or [""]
    if head.lstrip().startswith(("{", "[")):
        raise UserError(
            f"{source.path}: JSON of no known format; its first line is {head[:80]!r}. An object a line has query,"
            " doc_id and rating; `serm judgments import --help` names what else is read."
        )
    separator, width = best(source.lines, layouts, source.is_rating)
    sample = list(islice(source.lines.records(separator, width), _SAMPLE))
    if sample and all(len(fields) != width for _, fields, _ in sample):
        raise UserError(
            f"{source.path}: its first line, {head[:80]!r}, is neither one of TREC's qrels (query id, iteration,"
            " document, rating) nor a header with query, doc_id and rating."
        )
    records = source.lines.records(separator, width)
    first = next(records, None)
    others = (fields for _, fields, _ in islice(records, _SAMPLE) if len(fields) == width)
    is_header = first is not None and len(first[1]) == width and _is_name(source, first[1][-1])
    if first and is_header and any(source.is_rating(fields[-1]) for fields in others):
        raise UserError(
            f"{source.path}: its line {first[0]}, {first[2][:80]!r}, has no rating as the others do: where it is a"
            " header, call its columns query, doc_id and rating; where it is none, mend it or take it out."
        )
    form = {4: "TREC's qrels (query id, iteration, document, rating)"}.get(width)
    by_id = width == 4 or separator is None or source.queries
    form = form or f"rows without a header: query{' id' if by_id else ''}, document, rating"
    return Told(form, _of_bare(source, separator, width, by_id))


def _is_name(source: Source, field: str) -> bool:
    return not source.is_rating(field) and any(map(str.isalpha, field))


def _of_bare(source: Source, separator: Separator, width: int, by_id: bool) -> Iterator[Row]:
    for number, fields, raw in source.lines.records(separator, width):
        if len(fields) == width:
            yield Row(f"line {number}", raw, fields[0], fields[-2], fields[-1], by_id=by_id)
        else:
            yield Row(f"line {number}", raw, reason=f"it has {len(fields)} fields, not {width}")
