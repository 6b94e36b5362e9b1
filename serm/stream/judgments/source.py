"""A file of judgments as its readers see it, and the rows that they make of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.lines import BrokenOff, chunks
from serm.stream.judgments.lines import Lines
from serm.stream.judgments.ratings import rating_of

_MAX_BYTES = 2 << 30
#: The names that a column may have, in lower case, with ``_`` for whatever is no letter or digit.
NAMES: Mapping[str, tuple[str, ...]] = {
    "query": (
        *("query", "query_text", "querytext", "search_query", "keywords", "keyword", "q"),
        *("search_term", "searchterm", "search"),
    ),
    "query_id": ("query_id", "queryid", "qid", "topic_id", "topicid", "topic"),
    "doc_id": (
        *("doc_id", "docid", "docno", "document_id", "documentid", "document", "doc"),
        *("corpus_id", "product_id", "asin", "passage_id", "pid", "item_id", "item", "sku", "article_id"),
    ),
    "rating": (
        *("rating", "grade", "relevance", "relevancy", "rel", "judgment", "judgement"),
        *("esci_label", "label", "score", "points"),
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


@dataclass(frozen=True)
class Told:
    """What a file is, and its rows."""

    form: str
    """For people."""
    rows: Iterator[Row]
    note: str = ""
    """What a person should know of how it is read."""


def unpacked(path: Path) -> bytes:
    """Return the bytes of a file, out of gzip or zstd where it is packed.

    Raises:
        UserError: it cannot be read, a packed stream breaks off, or it is larger than 2 GB.
    """
    found, size = [], 0
    try:
        for chunk in chunks(path):
            found.append(chunk)
            if (size := size + len(chunk)) > _MAX_BYTES:
                raise UserError(f"{path}: larger than {_MAX_BYTES >> 30} GB, unpacked; give it in parts.")
    except BrokenOff as error:
        raise UserError(f"{path}: {error}; bring an undamaged copy.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return b"".join(found)


def columns(names: Iterable[str]) -> dict[str, str]:
    """Return what each of ``names`` is in ``NAMES``; nothing where query, document or rating is missing."""
    found = kinds(names)
    return found if {"doc_id", "rating"} <= found.keys() and {"query", "query_id"} & found.keys() else {}


def kinds(names: Iterable[str]) -> dict[str, str]:
    """Return what each of ``names`` is in ``NAMES``."""
    plain = {re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_"): name for name in reversed(list(names))}
    return {
        kind: next(plain[name] for name in known if name in plain)
        for kind, known in NAMES.items()
        if any(name in plain for name in known)
    }


def agreed(ratings: Iterable[object]) -> tuple[object, str]:
    """Return the rating that most judges of a pair gave, or why there is none; blanks are nobody's."""
    given = [one for one in ratings if one is not None and str(one).strip()]
    ranked = Counter(rating_of(one) for one in given).most_common(2)
    if not ranked:
        return None, "nobody rated it"
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None, f"its judges differ evenly ({', '.join(str(one)[:20] for one in given[:8])})"
    return next(one for one in given if rating_of(one) == ranked[0][0]), ""
