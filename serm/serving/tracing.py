"""Spans of OpenTelemetry for each request and its stages, sent by OTLP over HTTP where the environment says to.

They are off, and the SDK is not imported, unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or its form for traces) is set; the
SDK's other variables (sampling, headers, the service's name) count as everywhere. A trace that a request's
``traceparent`` (W3C Trace Context) names goes on either way. No span holds a text of a request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry.trace import NoOpTracer, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serm.serving.protocols.request import Answered

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROPAGATION = TraceContextTextMapPropagator()
FLUSH_SECONDS = 3.0
"""How long the last spans may take to be sent; Kubernetes does not wait for long."""


class Tracing:
    """Makes the spans of one server, until it is closed."""

    def __init__(self, service: str) -> None:
        """Send spans where the environment says to, as those of ``service`` unless it names another."""
        self._tracer: Tracer = NoOpTracer()
        self._provider = None
        if any(map(os.environ.get, _ENDPOINTS)):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": version("serm")}
            self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self._tracer = self._provider.get_tracer("serm.serving")

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> Iterator[Span]:
        """Span the answering of a request, in the trace that its ``headers`` name or in a new one."""
        with self._tracer.start_as_current_span(
            name,
            _PROPAGATION.extract(headers),
            SpanKind.SERVER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    @contextmanager
    def call(self, name: str, headers: dict[str, str]) -> Iterator[None]:
        """Span a call to another server, which ``headers`` tell of the trace."""
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
        ) as span:
            _PROPAGATION.inject(headers)
            try:
                yield
            except Exception as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    def answered(self, span: Span, status: int, answered: Answered | None = None) -> None:
        """Note how a request went: ``status`` as HTTP has it, and of what was scored its size and its stages."""
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        if answered is None or not span.is_recording():
            return
        scored = answered.scored
        span.set_attribute("serm.model", answered.name)
        span.set_attribute("serm.model_version", answered.version)
        span.set_attribute("serm.pairs", len(answered.request.queries))
        span.set_attribute("serm.tokens", scored.tokens)
        span.set_attribute("serm.batches", scored.batches)
        for stage, (began, ended) in scored.spans.items():
            self._tracer.start_span(stage, start_time=began).end(ended)

    def close(self) -> None:
        """Send what waits; where the collector does not take it in ``FLUSH_SECONDS``, it is lost."""
        if self._provider is not None:
            sending = threading.Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            sending.join(FLUSH_SECONDS)
