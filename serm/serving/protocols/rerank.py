"""What reranking clients send: a query and documents in, the documents' scores in order out.

With ``documents`` the answer has Cohere's shape, with what Jina and vLLM add to it; with ``texts`` it has that of
text-embeddings-inference. ``relevance_score`` and ``score`` are the expected grade divided by 3, so 0 to 1.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
from kserve.errors import InvalidInput

from serm.contracts import Grade
from serm.escaping import is_storable
from serm.serving.protocols.request import (
    Answer,
    Request,
    Scored,
    as_json,
    as_text,
    few_enough,
    flag,
    is_count,
)
from serm.serving.refusals import Refusal
from serm.settings.serving import PredictorSettings

#: text-embeddings-inference's word for a refusal.
_ERROR_TYPES = {404: "Validation", 408: "Validation", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


@dataclass(frozen=True)
class DocumentsRequest(Request):
    """A request with ``documents``."""

    top_n: int | None = None
    returned: list[str] | None = None
    """The documents as they came, where they are wanted back."""

    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write the ``top_n`` best documents, the best first."""
        scores = scored.scores.expected / max(Grade)
        results = []
        for row in _best_first(scored)[: self.top_n]:
            result: dict[str, Any] = {"index": row, "relevance_score": float(scores[row])}
            if self.returned is not None:
                result["document"] = {"text": self.returned[row]}
            results.append(result)
        meta: dict[str, Any] = {"api_version": {"version": "2"}, "tokens": {"input_tokens": scored.tokens}}
        if scored.cut:
            where = ", ".join(map(str, scored.cut[:20])) + (", ..." if len(scored.cut) > 20 else "")
            meta["warnings"] = [f"documents {where}: only their first {scored.max_tokens} tokens were read."]
        usage = {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens}
        told = {"id": uuid.uuid4().hex, "model": name, "model_version": version}
        return as_json({**told, "results": results, "meta": meta, "usage": usage})


@dataclass(frozen=True)
class TextsRequest(Request):
    """A request with ``texts``."""

    raw_scores: bool = False
    returned: list[str] | None = None
    """The texts as they came, where they are wanted back."""

    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write all texts, the best first; raw scores are expected grades, 0 to 3."""
        scores = scored.scores.expected / (1 if self.raw_scores else max(Grade))
        results = []
        for row in _best_first(scored):
            result: dict[str, Any] = {"index": row, "score": float(scores[row])}
            if self.returned is not None:
                result["text"] = self.returned[row]
            results.append(result)
        names = {"total": "total", "queue": "queue", "tokenise": "tokenization", "model": "inference"}
        times = {f"x-{names[stage]}-time": f"{1000 * seconds:.0f}" for stage, seconds in scored.seconds.items()}
        return as_json(results, {"x-compute-tokens": str(scored.tokens), **times})


def read(payload: dict[str, Any], limits: PredictorSettings) -> Request:
    """Return the pairs of a body; raises ``InvalidInput`` or ``TooLarge``."""
    if (texts := "texts" in payload) == ("documents" in payload):
        raise InvalidInput("documents, texts: send one of them, a list of texts.")
    field = "texts" if texts else "documents"
    query = as_text(payload.get("query"), "query", limits.max_text_characters)
    came = payload[field]
    if not isinstance(came, list):
        raise InvalidInput(f"{field}: expected a list of texts.")
    few_enough(len(came), field, limits.max_request_pairs)
    whole = [_whole(value, f"{field}[{row}]", not texts) for row, value in enumerate(came)]
    documents = [as_text(value, where, limits.max_text_characters) for value, where in whole]
    queries = [query] * len(documents)
    back = "return_text" if texts else "return_documents"
    wanted = flag(payload.get(back), back)
    returned = [_returnable(*one) for one in whole] if wanted else None
    if texts:
        return TextsRequest(queries, documents, flag(payload.get("raw_scores"), "raw_scores"), returned)
    return DocumentsRequest(queries, documents, _top_n(payload.get("top_n")), returned)


def refused(refusal: Refusal) -> dict[str, str]:
    """Return a refusal as text-embeddings-inference's clients expect it."""
    return {"error": refusal.reason, "error_type": _ERROR_TYPES.get(refusal.status, "Validation")}


def _whole(value: Any, where: str, may_be_object: bool) -> tuple[Any, str]:
    """Return a document as it came, and its field's name."""
    if may_be_object and isinstance(value, dict):
        return value.get("text"), f"{where}.text"
    return value, where


def _returnable(text: str, where: str) -> str:
    if not is_storable(text):
        raise InvalidInput(f"{where}: holds half of a character (a lone surrogate).")
    return text


def _top_n(value: Any) -> int | None:
    if value is None:
        return None
    if not is_count(value) or not value:
        raise InvalidInput("top_n: expected a number, at least 1.")
    return int(value)


def _best_first(scored: Scored) -> list[int]:
    """Return the documents' numbers by falling score; the first one first where scores are equal."""
    order: list[int] = np.argsort(-scored.scores.expected, kind="stable").tolist()
    return order
