"""Spans, as a collector gets them: a request through transformer and predictor is one trace, and holds no text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from listening import Posted, listening
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving_here import answering, serving

from serm.rollout.split import Variant
from serm.serving.tracing import Tracing
from serm.serving.transformer.__main__ import predictors
from serm.serving.transformer.application import Transformer
from serm.serving.transformer.querylog import QueryLog
from serm.settings.serving import PredictorSettings, TransformerSettings

SECRET = "zebra-searched-for-this"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


def _spans(came: list[Posted]) -> dict[str, dict[str, Any]]:
    """Return all spans: service and name -> the span, its attributes and its parent's id."""
    found: dict[str, dict[str, Any]] = {}
    for one in came:
        if one.path != "/v1/traces":
            continue
        for resource in ExportTraceServiceRequest.FromString(one.body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    told = {one.key: one.value for one in span.attributes}
                    name = f"{named['service.name']}: {span.name}"
                    assert name not in found
                    found[name] = {
                        "span": span,
                        "told": told,
                        "id": span.span_id.hex(),
                        "of": span.parent_span_id.hex(),
                    }
    return found


def test_a_request_through_transformer_and_predictor_is_one_trace_without_its_texts(
    champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(200) as (collector, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        limits, log = TransformerSettings(), QueryLog(tmp_path / "log", TransformerSettings())
        with serving({"champion": champion}, PredictorSettings()) as predictor:
            urls: dict[Variant, str] = {"champion": f"{predictor.base_url}/v1/models/champion"}
            with answering(Transformer(predictors(urls), log, b"a key of sixteen", limits)) as transformer:
                asked = {"query": SECRET, "client_id": SECRET, "documents": [{"id": SECRET, "text": SECRET}]}
                assert transformer.post("/rank", json=asked, headers=HEADERS).status_code == 200
        log.close()
    spans = _spans(came)
    ranked, called = spans.pop("serm-transformer: POST /rank"), spans.pop("serm-transformer: score by champion")
    scored = spans.pop("serm-predictor: POST /v1/models/{name}:predict")
    assert (ranked["of"], called["of"], scored["of"]) == (PARENT, ranked["id"], called["id"])
    assert scored["told"]["http.response.status_code"].int_value == 200
    assert scored["told"]["serm.pairs"].int_value == scored["told"]["serm.batches"].int_value == 1
    assert scored["told"]["serm.model"].string_value == "champion"
    stages = [spans.pop(f"serm-predictor: {stage}") for stage in ("tokenise", "queue", "model")]
    assert not spans
    times = [scored["span"].start_time_unix_nano]
    for stage in stages:  # each behind the one before, within the request
        assert stage["of"] == scored["id"]
        times += [stage["span"].start_time_unix_nano, stage["span"].end_time_unix_nano]
    slack = 2_000_000  # ns that two clocks may differ
    assert all(later >= earlier - slack for earlier, later in itertools.pairwise(times))
    for one in (ranked, called, scored, *stages):
        assert (one["span"].trace_id.hex(), one["span"].trace_state) == (TRACE, "vendor=1")
    assert not any(SECRET.encode() in one.body for one in came)


def test_no_span_leaves_unless_the_environment_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    tracing, headers = Tracing("serm"), dict[str, str]()
    with tracing.request("asked", HEADERS, {}) as span, tracing.call("asks", headers):
        assert not span.is_recording()
    assert headers == HEADERS  # the trace goes on as it came
    with tracing.request("asked", {"traceparent": "no trace"}, {}), tracing.call("asks", headers := {}):
        pass
    assert headers == {}


def test_a_collector_that_refuses_or_is_gone_holds_up_no_answer_and_no_end(
    champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serm.serving.tracing.FLUSH_SECONDS", 0.2)
    with listening(503) as (collector, _):
        for address in (collector, "http://127.0.0.1:9"):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
            with serving({"champion": champion}, PredictorSettings()) as client:
                body = {"query": "cat", "documents": ["dog"]}
                assert client.post("/rerank", json=body).status_code == 200
