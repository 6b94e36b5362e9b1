"""What a search engine asks the transformer, and how its fields are read: nothing in it is trusted."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kserve.errors import InvalidInput

from serm.serving.protocols.request import as_text, few_enough, is_count, json_object
from serm.settings.serving import TransformerSettings

LONGEST_ID = 512
"""Characters of an id, and of a locale."""


@dataclass(frozen=True)
class RankRequest:
    """A query of a client, and the documents to be ranked for it."""

    query: str
    query_id: str
    """The client's, or a new one."""
    client_id: str
    session_id: str | None
    locale: str | None
    ids: Sequence[str]
    """The documents' ids, each once."""
    texts: Sequence[str | None]
    """The documents' texts; None where the store is to know it."""
    top_n: int | None
    start: int
    """How many documents of the query were served on pages before."""


def read(body: bytes, settings: TransformerSettings) -> RankRequest:
    """Return the request that a body is; raises ``InvalidInput`` or ``TooLarge``."""
    payload = json_object(body)
    documents = payload.get("documents")
    if not isinstance(documents, list):
        raise InvalidInput("documents: expected a list of ids, or of objects with id and text.")
    few_enough(len(documents), "documents", settings.max_documents)
    read = [_document(value, f"documents[{row}]", settings) for row, value in enumerate(documents)]
    ids = [one for one, _ in read]
    if len(set(ids)) < len(ids):
        again = next(row for row, one in enumerate(ids) if one in ids[:row])
        raise InvalidInput(f"documents[{again}]: its id stands there twice.")
    start, top_n = payload.get("from"), payload.get("top_n")
    if start is not None and not is_count(start):
        raise InvalidInput("from: expected a number, 0 or more.")
    if top_n is not None and not (is_count(top_n) and top_n):
        raise InvalidInput("top_n: expected a number, at least 1.")
    query = _without_nul(as_text(payload.get("query"), "query", settings.max_query_characters), "query")
    return RankRequest(
        query=query,
        query_id=_optional(payload, "query_id") or uuid.uuid4().hex,
        client_id=_id(payload.get("client_id"), "client_id"),
        session_id=_optional(payload, "session_id"),
        locale=_optional(payload, "locale"),
        ids=ids,
        texts=[text for _, text in read],
        top_n=None if top_n is None else int(top_n),
        start=int(start or 0),
    )


def _document(value: Any, where: str, settings: TransformerSettings) -> tuple[str, str | None]:
    if not isinstance(value, dict):
        return _id(value, where), None
    text = value.get("text")
    found = None if text is None else as_text(text, f"{where}.text", settings.max_text_characters)
    return _id(value.get("id"), f"{where}.id"), found


def _optional(payload: dict[str, Any], name: str) -> str | None:
    return None if payload.get(name) is None else _id(payload[name], name)


def _id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        raise InvalidInput(f"{where}: expected a text of 1 to {LONGEST_ID} characters.")
    return _without_nul(as_text(value, where, LONGEST_ID), where)


def _without_nul(text: str, where: str) -> str:
    """Refuse what no log may hold."""
    if "\0" in text:
        raise InvalidInput(f"{where}: holds a NUL character.")
    return text
