"""Judgments of a file as JUDGMENTS: what can be kept, and what cannot, with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from serm import contracts
from serm.errors import UserError
from serm.escaping import is_storable
from serm.stream.judgments.formats import FORMATS
from serm.stream.judgments.ratings import Rating, Scale, is_rating, known, rating_of
from serm.stream.judgments.source import Row, Source, Told, unpacked
from serm.stream.judgments.writing import queries_path

_MAX_RAW = 1000
_BLANKS = " \t\r\n\f\v"
"""What the catalogue's ids lose at their ends too."""
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_Pair = tuple[str, str, str]
"""Query, locale, doc_id."""


@dataclass(frozen=True)
class Quarantined:
    """A row that is no judgment."""

    where: str
    reason: str
    row: str
    """As it stands in the file, cut to 1,000 characters."""


@dataclass(frozen=True)
class Imported:
    """What a file holds: ``rows`` = judgments + quarantined + of other locales."""

    judgments: pa.Table
    rows: int
    quarantined: list[Quarantined]
    of_other_locales: int
    form: str
    """What the file is, for people."""
    notes: list[str]
    """What a person should know of how it is read, a sentence each."""


def read(
    path: Path, locale: str, scale: Scale | None = None, queries: Path | None = None, *, all_locales: bool = False
) -> Imported:
    """Return the judgments of ``path`` as JUDGMENTS of ``locale``, sorted, with source ``seed`` and cycle 0.

    ``path`` has one of ``FORMATS``, plain, gzip or zstd. ``scale`` tells the grade of a rating; without it the file's
    ratings must be 0 to 3, or labels that are known. ``queries`` has the texts of a file that names queries by ids;
    without it they are looked for beside the file. Where rows of the file name locales, those of ``locale`` and those
    that name none are read, or with ``all_locales`` all of them, each as the locale that it names.

    Raises:
        UserError: the file is of no known format, its ratings are of another scale, no row of it is of ``locale``, or
            none can be kept.
    """
    told = _told(path, scale, queries)
    rows, named = list(told.rows), f"{path} ({told.form})"
    if not rows:
        raise UserError(f"{named}: it holds no judgments.")
    ours = rows if all_locales else list(_of_locale(path, rows, locale))
    texts = _texts(named, path, queries or _queries_beside(path)) if any(row.by_id for row in ours) else {}
    ratings = [rating_of(row.rating) for row in ours]
    scale = scale or known(named, (rating for rating in ratings if rating is not None))
    quarantined: list[Quarantined] = []
    kept: dict[_Pair, list[tuple[int, Row]]] = {}
    for row, rating in zip(ours, ratings, strict=True):
        reason, (query, doc_id), grade = _judged(row, rating, scale, texts)
        of = str(row.locale) if row.locale else locale
        if not reason and of != locale and not _LOCALE.fullmatch(of):
            reason = f"its locale {of[:40]!r} is none"
        if reason:
            quarantined.append(_quarantined(row, reason))
        else:
            kept.setdefault((query, of, doc_id), []).append((grade, row))
    grades: dict[_Pair, int] = {}
    for pair, same in kept.items():
        if len({grade for grade, _ in same}) == 1:
            grades[pair] = same[0][0]
            quarantined += [_quarantined(row, f"it repeats {same[0][1].where}") for _, row in same[1:]]
        else:
            said = f"{pair[2]!r} is rated twice for {pair[0]!r}, with different grades; keep one"
            quarantined += [_quarantined(row, said) for _, row in same]
    if not grades:
        first = quarantined[0]
        raise UserError(f"{named}: none of {len(ours)} rows can be kept; {first.where}: {first.reason}.")
    notes = [f"{path}: {told.note}."] if told.note else []
    return Imported(_table(path, grades), len(rows), quarantined, len(rows) - len(ours), told.form, notes)


def _told(path: Path, scale: Scale | None, queries: Path | None) -> Told:
    def looks(value: object) -> bool:
        rating = rating_of(value)
        return is_rating(value) or (scale is not None and rating is not None and scale.grade(rating) is not None)

    source = Source(path, unpacked(path), looks, queries is not None or queries_path(path).is_file())
    found = (read_as(source) for read_as in FORMATS)
    return next(told for told in found if told is not None)


def _of_locale(path: Path, rows: list[Row], locale: str) -> Iterable[Row]:
    told = {row.locale for row in rows if isinstance(row.locale, str) and row.locale}
    ours = [row for row in rows if not row.locale or row.locale == locale]
    if not ours:
        has = ", ".join(sorted(told)[:20])
        raise UserError(
            f"{path}: it has rows of {has}, and none of --locale {locale}; name one of them, or take the column out if"
            " all of them are to be of that locale."
        )
    return ours


def _judged(
    row: Row, rating: Rating | None, scale: Scale, texts: Mapping[str, str]
) -> tuple[str, tuple[str, str], int]:
    """Why a row is no judgment (empty: it is one), its query and document, its grade."""
    query, doc_id = _text(row.query), _text(row.doc_id)
    grade = None if rating is None else scale.grade(rating)
    reason = row.reason
    if reason:
        pass
    elif not query or not doc_id:
        reason = f"it has no {'document' if query else 'query'}"
    elif row.by_id and query not in texts:
        reason = f"its query {query!r} is not in the queries' file"
    elif not row.rating and row.rating != 0:
        reason = "it has no rating"
    elif grade is None:
        reason = f"its rating {str(row.rating)[:40]!r} has no grade"
    query = texts.get(query, "") if row.by_id else query
    if not reason and not is_storable(query + doc_id):
        reason = "it is not UTF-8"
    return reason, (query, doc_id), grade or 0


def _text(value: object) -> str:
    """An id or a query as text, without blanks around it: 17, 17.0 and "17" are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip(_BLANKS) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _quarantined(row: Row, reason: str) -> Quarantined:
    return Quarantined(row.where, reason, row.raw[:_MAX_RAW].encode("utf-8", "replace").decode())


def _table(path: Path, grades: Mapping[_Pair, int]) -> pa.Table:
    pairs = sorted(grades)
    columns = {
        "query": [query for query, _, _ in pairs],
        "locale": [locale for _, locale, _ in pairs],
        "doc_id": [doc_id for _, _, doc_id in pairs],
        "grade": [grades[pair] for pair in pairs],
        "rationale": pa.nulls(len(pairs), pa.string()),
        "source": ["seed"] * len(pairs),
        "cycle": [0] * len(pairs),
        "panel_version": pa.nulls(len(pairs), pa.string()),
        "agreement": pa.nulls(len(pairs), pa.float64()),
    }
    return contracts.conform(pa.table(columns), path, contracts.JUDGMENTS)


def _queries_beside(path: Path) -> Path | None:
    """``queries_path``, or BEIR's ``queries.jsonl`` in the directory or the one above."""
    beside = (queries_path(path), path.parent / "queries.jsonl", path.absolute().parent.parent / "queries.jsonl")
    return next((file for file in beside if file.is_file()), None)


def _texts(named: str, path: Path, queries: Path | None) -> dict[str, str]:
    """The queries' texts by id: a line each, id, tab, text, or an object with ``_id`` and ``text``."""
    if queries is None:
        raise UserError(
            f"{named}: it names queries by ids; give their texts with --queries FILE (a line each: id, tab, text; or "
            f"BEIR's queries.jsonl), or put them in {queries_path(path)}."
        )
    lines = unpacked(queries).decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").split("\n")
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (line.startswith(("#", "//")) and "\t" not in line):
            continue
        query_id, text = _query(line)
        if not query_id or not text:
            raise UserError(f"{queries}: line {number} is neither id, tab, text nor an object with _id and text.")
        if texts.setdefault(query_id, text) != text:
            raise UserError(f"{queries}: line {number} gives the query {query_id!r} a second text; keep one.")
    return texts


def _query(line: str) -> tuple[str, str]:
    if not line.startswith("{"):
        query_id, _, text = line.partition("\t")
        return query_id.strip(), _text(text)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "", ""
    names = (("_id", "id", "query_id", "qid"), ("text", "query", "title"))
    query_id, text = (next((_text(row[name]) for name in some if name in row), "") for some in names)
    return query_id, text
