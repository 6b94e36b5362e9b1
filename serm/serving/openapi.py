"""What the servers answer, as OpenAPI 3.1: what stands here is answered, and what is answered stands here."""

from __future__ import annotations

from typing import Any

from serm.contracts import Grade
from serm.serving.protocols.request import MOST
from serm.serving.protocols.v2 import OUTPUTS
from serm.serving.transformer.request import LONGEST_ID
from serm.settings.serving import PredictorSettings, TransformerSettings

NO_NUL = r"^[^\x00]*$"
_TEXT, _NUMBER, _COUNT, _FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_NAME = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
_METRICS = {
    "get": {
        "summary": "Prometheus metrics",
        "responses": {"200": {"description": "Metrics", "content": {"text/plain": {}}}},
    }
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT, "error_type": _TEXT}}


def of_predictor(version: str, rerank: tuple[str, ...], limits: PredictorSettings) -> dict[str, Any]:
    """Return the description of a predictor of this ``version``, whose rerankers' routes are ``rerank``."""
    most = limits.max_request_pairs
    paths: dict[str, Any] = {
        path: {"get": _get(what, of)}
        for path, what, of in (
            ("/", "Liveness", {"status": _TEXT}),
            ("/v2/health/live", "Liveness", {"live": _FLAG}),
            ("/v2/health/ready", "Readiness", {"ready": _FLAG}),
            ("/v1/models", "The models' names", {"models": _list(_TEXT)}),
            ("/v2/models", "The models' names", {"models": _list(_TEXT)}),
            ("/v2", "The server", {"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
            ("/v1/models/{name}", "Readiness of a model", {"name": _TEXT, "ready": _FLAG}),
            ("/v2/models/{name}/ready", "Readiness of a model", {"name": _TEXT, "ready": _FLAG}),
            ("/v2/models/{name}", "What a model takes and gives", {"name": _TEXT, "versions": _list(_TEXT)}),
            ("/info", "What is served, in text-embeddings-inference's words", {"model_id": _TEXT, "model_sha": _TEXT}),
            ("/openapi.json", "This description", {"openapi": _TEXT}),
        )
    }
    paths["/metrics"] = _METRICS
    paths["/v1/models/{name}:predict"] = {"post": _post("Score pairs (KServe's v1)", _v1_request(most), _V1_ANSWER)}
    paths["/v2/models/{name}/infer"] = {"post": _post("Score pairs (KServe's v2)", _V2_REQUEST, _V2_ANSWER)}
    for path in rerank:
        paths[path] = {"post": _post("Order documents by relevance", _rerank_request(most), _RERANK_ANSWER)}
    for path, methods in paths.items():
        if "{name}" in path:
            for operation in methods.values():
                operation["parameters"] = [_NAME]
                operation["responses"]["404"] = _said("No model has this name", _ERROR)
    about = "Grades are 0 (bad) to 3 (excellent); a score is the expected grade, and relevance_score is a third of it."
    return _document("SERM relevance predictor", version, about, paths)


def of_transformer(version: str, limits: TransformerSettings) -> dict[str, Any]:
    """Return the description of a transformer of this ``version``."""
    ready = _get("Readiness", {"ready": _FLAG})
    paths = {
        "/": {"get": _get("Liveness", {"live": _FLAG})},
        "/v2/health/live": {"get": _get("Liveness", {"live": _FLAG})},
        "/v2/health/ready": {"get": ready},
        "/v1/models/{name}": {"get": {**ready, "parameters": [_NAME]}},
        "/openapi.json": {"get": _get("This description", {"openapi": _TEXT})},
        "/metrics": _METRICS,
        "/rank": {"post": _post("Rank documents by the variant of the user", _rank_request(limits), _RANK_ANSWER)},
    }
    del paths["/rank"]["post"]["responses"]["404"]
    about = "A score is the expected grade, 0 (bad) to 3 (excellent), by the model that ranked; null without a text."
    return _document("SERM transformer", version, about, paths)


def _document(title: str, version: str, about: str, paths: dict[str, Any]) -> dict[str, Any]:
    info = {"title": title, "version": version, "description": about}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _list(of: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": of, **more}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _said(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _get(what: str, properties: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": _said(what, _object(properties, *properties))}
    if "eadiness" in what:
        responses["503"] = _said("The server is stopping", _object(properties, *properties))
    return {"summary": what, "responses": responses}


def _post(what: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    refusals = {
        "400": "A field is wrong, and named",
        "404": "No model has this name",
        "408": "The body did not arrive in time",
        "413": "More than is taken in one request",
        "429": "The queue is full; Retry-After says when to ask again",
        "503": "The server is stopping, or the request waited as long as it may",
    }
    return {
        "summary": what,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _said("Scores", answer), **{code: _said(why, _ERROR) for code, why in refusals.items()}},
    }


def _v1_request(most: int) -> dict[str, Any]:
    pair = _object({"query": _TEXT, "document": _TEXT}, "query", "document")
    return _object({"instances": _list(pair, minItems=1, maxItems=most)}, "instances")


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a field that may be left out: clients send null where they mean that."""
    return {"anyOf": [schema, {"type": "null"}]}


def _rank_request(limits: TransformerSettings) -> dict[str, Any]:
    named = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID, "pattern": NO_NUL}
    document = {"anyOf": [named, _object({"id": named, "text": _or_null(_TEXT)}, "id")]}
    fields = {
        "query": {"type": "string", "pattern": NO_NUL},
        "client_id": named,
        "documents": _list(document, minItems=1, maxItems=limits.max_documents, uniqueItems=True),
        "top_n": _or_null({"type": "integer", "minimum": 1, "maximum": MOST}),
        "from": _or_null({"type": "integer", "minimum": 0, "maximum": MOST}),
        **dict.fromkeys(("session_id", "query_id", "locale"), _or_null(named)),
    }
    return _object(fields, "query", "client_id", "documents")


def _rerank_request(most: int) -> dict[str, Any]:
    size = {"minItems": 1, "maxItems": most}
    documents = _list({"anyOf": [_TEXT, _object({"text": _TEXT}, "text")]}, **size)
    wanted, count = _or_null(_FLAG), _or_null({"type": "integer", "minimum": 1, "maximum": MOST})
    cohere = {"documents": documents, "top_n": count, "return_documents": wanted}
    tei = {"texts": _list(_TEXT, **size), "raw_scores": wanted, "return_text": wanted}
    both = {"query": _TEXT, "model": _or_null(_TEXT)}
    return {"oneOf": [_object({**both, **cohere}, "query", "documents"), _object({**both, **tei}, "query", "texts")]}


_GRADE = {"type": "number", "minimum": 0, "maximum": len(Grade) - 1}
_DISTRIBUTION = _list({"type": "number", "minimum": 0, "maximum": 1}, minItems=len(Grade), maxItems=len(Grade))
_V1_ANSWER = _object(
    {
        "predictions": _list(_object({"score": _GRADE, "distribution": _DISTRIBUTION}, "score", "distribution")),
        "model_version": _TEXT,
        "truncated": _list(_COUNT),
    },
    "predictions",
    "model_version",
)
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _list(_COUNT), "parameters": {"type": "object"}}
_V2_REQUEST = _object(
    {
        "id": _TEXT,
        "inputs": _list(_object({**_TENSOR, "datatype": {"const": "BYTES"}, "data": _list(_TEXT)}, "name", "shape")),
        "outputs": _list(_object({"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}}, "name")),
        "parameters": {"type": "object"},
    },
    "inputs",
)
_V2_ANSWER = _object(
    {
        "id": _TEXT,
        "model_name": _TEXT,
        "model_version": _TEXT,
        "outputs": _list(_object({**_TENSOR, "data": _list(_NUMBER)}, "name", "datatype", "shape")),
    },
    "id",
    "model_name",
    "outputs",
)
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_RERANK_ANSWER = {
    "oneOf": [
        _object(
            {
                "id": _TEXT,
                "model": _TEXT,
                "results": _list(_object({"index": _COUNT, "relevance_score": _SHARE}, "index", "relevance_score")),
                "meta": {"type": "object"},
                "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}, "total_tokens"),
            },
            "id",
            "model",
            "results",
        ),
        _list(_object({"index": _COUNT, "score": _GRADE, "text": _TEXT}, "index", "score")),
    ]
}
_RANK_ANSWER = _object(
    {
        "query_id": _TEXT,
        "variant": {"enum": ["champion", "challenger", "control"]},
        "ranked_by": {"enum": ["champion", "challenger", "both"]},
        "model_version": _TEXT,
        "results": _list(
            _object(
                {
                    "id": _TEXT,
                    "index": _COUNT,
                    "score": {"anyOf": [_GRADE, {"type": "null"}]},
                    "grade": _GRADE,
                    "variant": _TEXT,
                    "model_version": _TEXT,
                },
                *("id", "index", "score"),
            )
        ),
        "unknown": _list(_TEXT),
        "logged": _FLAG,
    },
    *("query_id", "variant", "ranked_by", "model_version", "results", "unknown", "logged"),
)
