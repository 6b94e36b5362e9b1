"""What was served as CloudEvents, posted to where KServe's logger would post: for who listens there already.

A page is two events with one id, as KServe's agent has it: ``org.kubeflow.serving.inference.request`` (what was asked)
and ``...response``, whose data is the query log's record. In the place of the agent's raw ids they hold keyed hashes.
Source: pkg/logger/worker.go of KServe 0.21, whose binary mode and extension attributes these are. As the agent does, it
asks once: what the listener does not take is lost, counted and told, and no answer waits for it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent
from prometheus_client import Counter

from serm.serving.transformer.predictors import http_url
from serm.serving.transformer.request import RankRequest
from serm.serving.transformer.waiting import Waiting

_LOG = logging.getLogger(__name__)
_PAGES = Counter("serm_event_pages", "Pages told as CloudEvents: sent, or lost and why", ["outcome"])
TYPE = "org.kubeflow.serving.inference."
POST_SECONDS = 5.0
FLUSH_SECONDS = 5.0
"""How long what waits at the end may take."""
_SAY_SECONDS = 60.0
_AS_THEY_ARE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Characters of a header's value that CloudEvents' HTTP binding (3.1.3.2) has not percent-encoded."""


@dataclass(frozen=True)
class _Page:
    """A page that was served; its parts are JSON."""

    query_id: str
    timestamp: str
    request: bytes
    response: bytes


class Events:
    """Posts pages as events, in a thread of its own."""

    def __init__(self, url: str, service: str, queue_mb: int) -> None:
        """Post to ``url``, as the InferenceService ``service``; pages of ``queue_mb`` megabytes may wait.

        Raises:
            UserError: ``url`` is none of HTTP.
        """
        self._url = http_url("--events", url, "http://HOST/PATH, as in the logger of an InferenceService")
        attributes = {
            "source": os.environ.get("HOSTNAME", "serm-transformer"),
            "inferenceservicename": service,
            "namespace": os.environ.get("POD_NAMESPACE", ""),
            "component": "transformer",
            "endpoint": "default",
            "metadata": "{}",
        }
        self._attributes = {name: value for name, value in attributes.items() if value}
        self._waiting = Waiting[_Page | None](queue_mb * 1_000_000)
        self._client = httpx.Client(timeout=POST_SECONDS, trust_env=False)
        self._told = float("-inf")
        self._thread = threading.Thread(target=self._post_all, name="events", daemon=True)
        self._thread.start()

    def add(self, asked: RankRequest, record: dict[str, Any]) -> bool:
        """Take a page that was served, and its ``record`` in the query log; say whether it was taken; never waits."""
        named: tuple[str, ...] = ("query_id", "client_id", "session_id")
        request: dict[str, Any] = {name: record[name] for name in named if name in record}
        request |= {"query": asked.query, "documents": asked.ids, "locale": asked.locale, "from": asked.start}
        page = _Page(record["query_id"], record["timestamp"], _as_json(request), _as_json(record))
        if taken := self._waiting.put(page, len(page.request) + len(page.response)):
            return taken
        self._lose("queue full", "more wait than serving.transformer.log_queue_mb")
        return False

    def close(self) -> None:
        """Post what waits, for as long as ``FLUSH_SECONDS``; to be called when nothing is added any more."""
        until = time.monotonic() + FLUSH_SECONDS
        while self._waiting and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        self._waiting.put(None, 0)
        self._thread.join(max(0.1, until - time.monotonic()))

    def _post_all(self) -> None:
        with self._client:
            while (page := self._waiting.get()) is not None:
                try:
                    self._post(page)
                except Exception as error:  # whatever is wrong with one page, the next one is told
                    self._lose("not sent", type(error).__name__)
                else:
                    _PAGES.labels("sent").inc()

    def _post(self, page: _Page) -> None:
        for kind, data in (("request", page.request), ("response", page.response)):
            told = {"id": page.query_id, "time": page.timestamp, "type": TYPE + kind}
            now = datetime.now(UTC).isoformat()
            attributes = {**self._attributes, **told, "recordedtime": now, "datacontenttype": "application/json"}
            headers, body = to_binary(CloudEvent(attributes, data), data_marshaller=bytes)
            encoded = {name: quote(value, safe=_AS_THEY_ARE) for name, value in headers.items()}
            self._client.post(self._url, headers=encoded, content=body).raise_for_status()

    def _lose(self, outcome: str, why: str) -> None:
        _PAGES.labels(outcome).inc()
        if time.monotonic() >= self._told + _SAY_SECONDS:
            self._told = time.monotonic()
            _LOG.error("serm: pages are not told as events to %s (%s).", self._url, why)


def _as_json(data: object) -> bytes:
    return json.dumps(data).encode()
