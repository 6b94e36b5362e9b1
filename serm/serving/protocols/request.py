"""A request for scores, whatever protocol it came in, and how its fields are read.

Nothing in a request is trusted: what does not fit raises ``InvalidInput`` (HTTP 400) or ``TooLarge`` (413) with the
field's name, and never with what stood in it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from kserve.errors import InvalidInput

from serm.escaping import is_storable
from serm.relevance import Scores
from serm.relevance.interface import readable
from serm.serving.refusals import TooLarge
from serm.settings.serving import PredictorSettings

MOST = 2**53 - 1
"""The largest whole number that every JSON reader tells from its neighbours (RFC 8259, section 6)."""


@dataclass(frozen=True)
class Scored:
    """A request's pairs, scored."""

    scores: Scores
    tokens: int = 0
    """That the model read."""
    cut: tuple[int, ...] = ()
    """The pairs whose document is longer than what the model reads."""
    max_tokens: int = 0
    """After how many tokens a text was cut."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the stages queue, tokenise, model and total."""
    batches: int = 0
    """That it took."""
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of the stages tokenise, queue and model, one behind the other: begin and end in nanoseconds since 1970. ``model``
    is from the first batch to the last one."""


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    data: Any
    """A body in bytes; in gRPC a message."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request(ABC):
    """What to score, ``queries[i]`` with ``documents[i]``, each text cut as the settings say."""

    queries: list[str]
    documents: list[str]

    @abstractmethod
    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write what the client gets from the model ``name`` in its ``version``."""


@dataclass(frozen=True)
class Answered:
    """An answer, and what it was made of."""

    request: Request
    scored: Scored
    name: str
    """The model's name."""
    version: str
    answer: Answer


Read = Callable[[PredictorSettings], Request]
"""Reads a body that has arrived; raises ``InvalidInput`` or ``TooLarge``."""


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        value = _with_surrogates(data, error)
    if not isinstance(value, dict):
        raise InvalidInput("body: expected a JSON object.")
    return value


def _with_surrogates(data: bytes, error: json.JSONDecodeError) -> Any:
    """Read JSON that orjson does not take for half a character in it, so that the field that holds it can be named."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"body: not JSON in UTF-8, from line {error.lineno}, column {error.colno} on.") from None


def as_text(value: Any, where: str, characters: int) -> str:
    """Return ``value``, a text, as far as a model reads it."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{where}: not UTF-8 from byte {error.start} on.") from None
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: expected a text.")
    text = readable(value, characters)
    if not is_storable(text):
        raise InvalidInput(f"{where}: holds half of a character (a lone surrogate).")
    return text


def few_enough(pairs: int, where: str, most: int) -> None:
    """Refuse no pairs, and more than ``most``."""
    if not pairs:
        raise InvalidInput(f"{where}: no pairs; send at least one.")
    if pairs > most:
        raise TooLarge(f"{where}: at most {most:,} pairs are scored in one request.")


def flag(value: Any, where: str) -> bool:
    """Return ``value``, true or false; of none, false."""
    if not isinstance(value, bool | None):
        raise InvalidInput(f"{where}: expected true or false.")
    return bool(value)


def is_count(value: Any) -> bool:
    """Say whether ``value`` is a whole number, 0 to ``MOST``; 2.0 is one, as JSON and JSON Schema have it."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value <= MOST


def as_json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer in JSON."""
    return Answer(orjson.dumps(value), {"content-type": "application/json", **(headers or {})})
