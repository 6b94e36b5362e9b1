"""What an endpoint answered, of whatever shape and type, read as a reply or as an error's words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serm.judging.llm.answer import label_probabilities

MOST_TOKENS = 1_000_000
"""Of one call; a usage that tells more is not believed."""
_WORDS = ("error", "errors", "message", "msg", "detail", "code", "type", "param", "loc")
"""Where error bodies say what is wrong. Others, such as ``input``, may echo the prompt."""


class Garbage(Exception):
    """A body is no chat completion; the text holds the endpoint's words, if there are any."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one call."""

    content: str
    of_tokens: list[float] | None
    """The probability of each grade at the label's token; None where the endpoint gave none that can be read."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """None where the endpoint tells no usage, or one that cannot be."""
    problem: str = ""
    """Why there is no content, where asking again would bring none either; else empty."""


def decoded(raw: bytes) -> object:
    """Return the JSON value of a body; its text, where it is no JSON or nested too deep to be read."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw[:10_000].decode("utf-8", "replace")


def words(body: object, depth: int = 4) -> str:
    """Return what an error body says: its message, code, type and the fields that it names."""
    match body:
        case str():
            return body[:2000]
        case bool() | None:
            return ""
        case int() | float():
            return f"{body:g}"
        case dict() | list() if depth:
            parts = [body.get(name) for name in _WORDS] if isinstance(body, dict) else body[:5]
            return " ".join(filter(None, (words(part, depth - 1) for part in parts)))
    return ""


def error_status(body: object) -> int | None:
    """Return the HTTP status that a body's error names (some gateways answer 200 around it)."""
    code = _at(body, "error", "code")
    return code if isinstance(code, int) and 400 <= code < 600 else None


def read_reply(body: object, clean: Callable[[str], str]) -> Reply:
    """Read a chat completion; text passes through ``clean``, and what is of a wrong type counts as absent.

    Raises:
        Garbage: it has no message, or the message's content is neither text nor null.
    """
    choice = _at(body, "choices", 0)
    message, finish = _at(choice, "message"), _at(choice, "finish_reason")
    if not isinstance(message, dict) or (_at(choice, "error") and not message.get("content")):
        raise Garbage(words(_at(choice, "error") or body) or "no chat completion")
    content, problem = _text(message.get("content")), ""
    if content.lstrip().startswith("<think>") and "</think>" not in content:
        content = ""  # all of it is thinking
    if finish == "content_filter":
        problem = "its endpoint's filter took the answer back (finish_reason content_filter)."
    elif not content.strip():
        refusal = message.get("refusal")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if refusal and isinstance(refusal, str):
            problem = f"the judge refused: {clean(refusal)[:500]}"
        elif finish == "length":
            problem = "max_tokens cut it before its answer (finish_reason length); raise max_tokens."
        elif isinstance(reasoning, str):
            content = reasoning  # a reasoning parser may take an answer without thinking for thinking
    return Reply(
        "" if problem else clean(content),
        _of_label(_at(choice, "logprobs", "content")),
        _count(_at(body, "usage", "prompt_tokens"), fewest=1),
        _count(_at(body, "usage", "completion_tokens"), fewest=1 if content else 0),
        problem,
    )


def _text(content: object) -> str:
    """Return a message's content, the texts of its parts where it is a list of them."""
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            texts = [part if isinstance(part, str) else _at(part, "text") for part in content]
            return "".join(text for text in texts if isinstance(text, str))
    raise Garbage("a message's content that is neither text nor a list of parts")


def _count(value: object, fewest: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not fewest <= value <= MOST_TOKENS:
        return None
    return math.ceil(value)


def _of_label(tokens: object) -> list[float] | None:
    if not isinstance(tokens, list):
        return None
    read = [(_at(token, "token"), _alternatives(_at(token, "top_logprobs"))) for token in tokens]
    whole = [(token, chances) for token, chances in read if isinstance(token, str)]
    return label_probabilities(whole) if len(whole) == len(read) else None


def _alternatives(of: object) -> dict[str, float]:
    """Return the log-probabilities by token; none of them where one cannot be a log-probability."""
    chances: dict[str, float] = {}
    for alternative in of if isinstance(of, list) else []:
        token, chance = _at(alternative, "token"), _at(alternative, "logprob")
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not chance <= 1e-3:
            return {}
        if isinstance(token, str):
            chances[token] = float(max(chance, -1000))
    return chances


def _at(value: Any, *path: str | int) -> Any:
    """Return what stands at ``path``; None where the value has another shape."""
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and len(value) > step:
            value = value[step]
        else:
            return None
    return value
