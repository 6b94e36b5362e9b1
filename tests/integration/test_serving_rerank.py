"""Reranking clients against the predictor: Cohere's own, and what Jina's, vLLM's, OpenSearch's and TEI's send."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import numpy as np
import pytest
import serving_here
from prometheus_client.parser import text_string_to_metric_families

from serm import relevance
from serm.relevance import Scores
from serm.serving import predictor
from serm.serving.access import AccessLog
from serm.serving.application import Application
from serm.serving.batching import Batcher
from serm.serving.protocols.request import Answered, Scored
from serm.serving.protocols.rerank import TextsRequest
from serm.serving.refusals import Busy, Late
from serm.settings.serving import PredictorSettings

DOCUMENTS = ["red heart", "grinning cat", "dog face", "cat face"]
SECRET = "zebra-searched-for-this"


@pytest.fixture(scope="module")
def client(champion: Path) -> Iterator[httpx.Client]:
    settings = PredictorSettings(max_body_mb=1, max_request_pairs=1500, max_queue_pairs=2000)
    with serving_here.serving({"champion": champion, "challenger": champion}, settings) as client:
        yield client


@pytest.fixture(scope="module")
def expected(champion: Path) -> list[tuple[int, float]]:
    """The documents' numbers and scores, the best first."""
    scores = relevance.load(champion).score(["cat"] * 4, DOCUMENTS).expected / 3
    return sorted(enumerate(scores.tolist()), key=lambda one: -one[1])


def _same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [row for row, _ in found] == [row for row, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("top_n", [None, 2, 50])
def test_coheres_own_client_reranks(client: httpx.Client, expected: list[tuple[int, float]], top_n: int | None) -> None:
    cohere = pytest.importorskip("cohere", reason="pip install 'serm[dev]'")
    asking = cohere.ClientV2("no key", base_url=str(client.base_url).rstrip("/"), httpx_client=client)
    limit = {} if top_n is None else {"top_n": top_n}
    found = asking.rerank(model="champion", query="cat", documents=DOCUMENTS, **limit)
    _same([(one.index, one.relevance_score) for one in found.results], expected[:top_n])
    assert found.id
    assert found.meta.tokens.input_tokens > 0
    with pytest.raises(cohere.errors.BadRequestError, match="documents: no pairs"):
        asking.rerank(model="champion", query="cat", documents=[])
    with pytest.raises(cohere.errors.NotFoundError, match="No model has this name"):
        asking.rerank(model="rerank-v4.0", query="cat", documents=DOCUMENTS)


def test_haystacks_own_ranker_reranks(
    client: httpx.Client, expected: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    haystack = pytest.importorskip("haystack", reason="pip install 'serm[dev]'")
    rankers = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    ranker = rankers.HuggingFaceTEIRanker(url=str(client.base_url), token=None, top_k=3)
    documents = [haystack.Document(content=text) for text in DOCUMENTS]
    found = ranker.run(query="cat", documents=documents, truncation_direction=rankers.TruncationDirection.RIGHT)
    _same([(DOCUMENTS.index(one.content), one.score) for one in found["documents"]], expected[:3])


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/openai/v1/rerank"])
def test_each_route_answers_in_coheres_and_jinas_shape(
    client: httpx.Client, expected: list[tuple[int, float]], path: str
) -> None:
    asked = {"query": "cat", "documents": [{"text": one} for one in DOCUMENTS], "top_n": 3.0, "return_documents": True}
    answer = client.post(path, json=asked).json()
    _same([(one["index"], one["relevance_score"]) for one in answer["results"]], expected[:3])
    assert [one["document"] for one in answer["results"]] == [{"text": DOCUMENTS[row]} for row, _ in expected[:3]]
    assert answer["model"] == "champion"
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 8
    assert "warnings" not in answer["meta"]


def test_opensearchs_connector_is_answered(client: httpx.Client, expected: list[tuple[int, float]]) -> None:
    """The request of its Cohere blueprint, whose post-processing reads index and relevance_score."""
    body = f'{{ "documents": {json.dumps(DOCUMENTS)}, "query": "cat", "model": "champion", "top_n": 4 }}'
    headers = {"Authorization": "Bearer no key", "Content-Type": "application/json; charset=UTF-8"}
    answer = client.post("/v2/rerank", content=body.encode(), headers=headers)
    assert answer.headers["content-type"] == "application/json"
    _same([(one["index"], one["relevance_score"]) for one in answer.json()["results"]], expected)


def test_texts_are_answered_as_text_embeddings_inference_does(
    client: httpx.Client, expected: list[tuple[int, float]]
) -> None:
    asked = {"query": "cat", "texts": DOCUMENTS, "truncate": True}
    answer = client.post("/rerank", json=asked)
    _same([(one["index"], one["score"]) for one in answer.json()], expected)
    assert all(one.keys() == {"index", "score"} for one in answer.json())
    assert int(answer.headers["x-compute-tokens"]) > 8
    assert {"x-total-time", "x-queue-time", "x-tokenization-time", "x-inference-time"} <= answer.headers.keys()
    raw = client.post("/rerank", json={**asked, "raw_scores": True, "return_text": True}).json()
    _same([(one["index"], one["score"]) for one in raw], [(row, 3 * score) for row, score in expected])
    assert [one["text"] for one in raw] == [DOCUMENTS[row] for row, _ in expected]


def test_a_long_document_is_cut_and_the_answer_says_so(client: httpx.Client) -> None:
    documents = ["cat", "red heart " * 2000, "dog"]
    meta = client.post("/rerank", json={"query": "cat", "documents": documents}).json()["meta"]
    assert meta["warnings"] == ["documents 1: only their first 16 tokens were read."]
    instances = [{"query": "cat", "document": one} for one in documents]
    assert client.post("/v1/models/champion:predict", json={"instances": instances}).json()["truncated"] == [1]


def test_a_thousand_documents_are_worked_off_in_parts(client: httpx.Client, champion: Path) -> None:
    documents = [f"{'cat ' * (n % 11)}{'red ' * (n % 7)}heart" for n in range(1500)]
    answer = client.post("/rerank", json={"query": "cat", "documents": documents}).json()
    scores = relevance.load(champion).score(["cat"] * 1500, documents).expected / 3
    assert [one["relevance_score"] for one in answer["results"]] == sorted(
        (one["relevance_score"] for one in answer["results"]), reverse=True
    )
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert [found[row] for row in range(1500)] == pytest.approx(scores.tolist(), abs=1e-3)  # bf16 where the CPU has it


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({}, 400, "documents, texts: send one of them"),
        ({"documents": DOCUMENTS, "texts": DOCUMENTS}, 400, "documents, texts: send one of them"),
        ({"documents": SECRET}, 400, "documents: expected a list"),
        ({"documents": []}, 400, "documents: no pairs"),
        ({"documents": ["cat", 7]}, 400, "documents[1]: expected a text"),
        ({"documents": ["cat", {"title": SECRET}]}, 400, "documents[1].text: expected a text"),
        ({"documents": [SECRET], "top_n": 0}, 400, "top_n: expected a number"),
        ({"documents": [SECRET], "top_n": True}, 400, "top_n: expected a number"),
        ({"documents": [SECRET], "top_n": 1.5}, 400, "top_n: expected a number"),
        ({"documents": [SECRET], "return_documents": {}}, 400, "return_documents: expected true"),
        ({"texts": [SECRET], "return_text": []}, 400, "return_text: expected true"),
        ({"texts": [SECRET], "raw_scores": 0}, 400, "raw_scores: expected true"),
        ({"documents": [SECRET], "return_documents": SECRET}, 400, "return_documents: expected true"),
        ({"documents": [SECRET], "query": None}, 400, "query: expected a text"),
        ({"documents": [SECRET], "model": "nobody"}, 404, "No model"),
        ({"documents": [SECRET], "model": [SECRET]}, 404, "No model"),
        ({"documents": [SECRET], "model": {}}, 404, "No model"),
        ({"documents": [SECRET + " \ud800"]}, 400, "documents[0]: holds half of a character"),
        ({"documents": ["x " * 40_000 + "\ud800"], "return_documents": True}, 400, "documents[0]: holds half"),
        ({"documents": ["x"] * 1501}, 413, "documents: at most 1,500 pairs"),
        ({"texts": SECRET}, 400, "texts: expected a list"),
        ({"texts": [{"text": SECRET}]}, 400, "texts[0]: expected a text"),
        ({"texts": [SECRET], "raw_scores": 1}, 400, "raw_scores: expected true"),
        ({"texts": ["x"] * 1501}, 413, "texts: at most 1,500 pairs"),
    ],
)
def test_a_wrong_request_is_told_the_field(
    client: httpx.Client, changes: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post("/rerank", content=json.dumps({"query": "cat", **changes}))
    assert (answer.status_code, SECRET in answer.text) == (status, False)
    assert field in answer.json()["error"]
    assert answer.json().get("error_type") == ("Validation" if "texts" in changes else None)


def test_a_full_queue_is_told_in_the_clients_own_words(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, champion: Path
) -> None:
    for error, status, kind in ((Busy(7), 429, "Overloaded"), (Late(), 503, "Unhealthy")):

        async def refuse(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Batcher, "score", refuse)
        for field, told in (("texts", {"error", "error_type"}), ("documents", {"error"})):
            answer = client.post("/rerank", json={"query": "cat", field: ["dog"]})
            assert answer.status_code == status
            assert int(answer.headers["retry-after"]) == (7 if status == 429 else 1)
            assert answer.json().keys() == told
            assert answer.json().get("error_type", kind) == kind


def test_info_says_what_is_served(client: httpx.Client, champion: Path) -> None:
    info = client.get("/info").json()
    assert (info["model_id"], info["model_sha"]) == ("champion", relevance.load(champion).version)
    assert (info["max_input_length"], info["max_client_batch_size"], info["auto_truncate"]) == (16, 1500, True)
    assert list(info["models"]) == ["champion", "challenger"]


def _matches(answer: httpx.Response, operation: dict[str, Any]) -> None:
    told = operation["responses"][str(answer.status_code)]
    if "application/json" in told.get("content", {}):
        jsonschema.Draft202012Validator(told["content"]["application/json"]["schema"]).validate(answer.json())


def test_what_openapi_says_is_answered_and_what_is_answered_it_says(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    answering = Application({}, Batcher(PredictorSettings()))
    assert set(described["paths"]) == {route.path for route in answering.routes}
    tensors = [{"name": n, "datatype": "BYTES", "shape": [1], "data": ["cat"]} for n in ("query", "document")]
    bodies: dict[str, list[dict[str, Any]]] = {
        "/v1/models/{name}:predict": [{"instances": [{"query": "cat", "document": "dog " * 99}]}],
        "/v2/models/{name}/infer": [{"inputs": tensors}],
    }
    rerank: list[dict[str, Any]] = [{"documents": DOCUMENTS}, {"texts": DOCUMENTS}, {"documents": [{"text": "cat"}]}]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            where = path.replace("{name}", "champion")
            if method == "get":
                answers = [client.get(where)]
            else:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                asked = bodies.get(path, [{"query": "cat", **one} for one in rerank])
                for body in asked:
                    jsonschema.Draft202012Validator(schema).validate(body)
                answers = [client.post(where, json=body) for body in asked]
                _matches(client.post(where, json={}), operation)
                assert list(jsonschema.Draft202012Validator(schema).iter_errors({}))
            for answer in answers:
                assert answer.status_code == 200
                _matches(answer, operation)


@pytest.mark.parametrize("wanted", ["none", "requests", "queries"])
def test_the_access_log_holds_no_searchers_words_unless_asked(
    wanted: Literal["none", "requests", "queries"], caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(wanted)
    request = TextsRequest([SECRET + "\n{"] * 3, ["a", "b", "c"])
    scored = Scored(Scores(np.zeros(3), np.zeros((3, 4))), 12, (1,), 16, {"queue": 0.1, "total": 0.2})
    answered = Answered(request, scored, "champion", "0123", request.answer(scored, "champion", "0123"))
    logger = logging.getLogger("serm.serving.access")
    logger.propagate = True
    with caplog.at_level(logging.INFO, "serm.serving.access"):
        log.write("POST", "/rerank\n" + "x" * 9999, 200, 0.0, answered, "id-7")
        log.write("POST", "/rerank", 400, 0.0, None)
    assert len(caplog.messages) == (0 if wanted == "none" else 2)
    lines = [json.loads(message) for message in caplog.messages]
    assert all("\n" not in message for message in caplog.messages)
    assert (SECRET in caplog.text) == (wanted == "queries")
    if lines:
        assert (lines[0]["pairs"], lines[0]["tokens"], lines[0]["truncated"], lines[0]["queue_ms"]) == (3, 12, 1, 100.0)
        assert (lines[0]["request_id"], len(lines[0]["path"]), lines[1]["status"]) == ("id-7", 200, 400)
    if wanted == "queries":
        assert lines[0]["queries"] == [SECRET + "\n{"]


def test_operators_see_stages_batches_and_the_cache(client: httpx.Client) -> None:
    client.post("/rerank", json={"query": "cat", "documents": DOCUMENTS})
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = {(one.name, one.labels.get("stage")): one.value for family in families for one in family.samples}
    for stage in ("queue", "tokenise", "model", "total"):
        assert samples["serm_request_stage_seconds_count", stage] >= 1
    for name in ("serm_batch_tokens_sum", "serm_batch_requests_count", "serm_document_cache_hits"):
        assert samples[name, None] > 0
    assert samples["serm_document_cache_bytes", None] > samples["serm_document_cache_texts", None] > 0
    assert samples["serm_queue_pairs", None] == 0
    assert samples["serm_batch_padding_tokens_total", None] >= 0


@pytest.mark.parametrize("models", [["a=x", "a=y"], ["a/b=x"], ["=x"], ["a"]])
def test_a_models_name_that_no_url_could_have_ends_the_start(
    models: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["predictor", *(f"--model={one}" for one in models)])
    with pytest.raises(SystemExit):
        predictor.main()
    assert "--model" in capsys.readouterr().err.splitlines()[-1]


def test_a_request_for_a_model_that_is_not_there_is_in_the_access_log(champion: Path) -> None:
    application = predictor.application({"champion": champion}, PredictorSettings())
    lines: list[tuple[str, int]] = []
    application.log = lambda method, path, status, *rest: lines.append((path, status))
    with serving_here.answering(application) as one:
        for path in ("/v1/models/nobody:predict", "/v2/models/nobody/infer"):
            assert one.post(path, json={}).status_code == 404
        one.get("/v1/models/nobody")
    assert lines == [("/v1/models/nobody:predict", 404), ("/v2/models/nobody/infer", 404)]
