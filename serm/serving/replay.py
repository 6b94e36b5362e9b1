"""Requests of the log, sent again: each to the variant of its user, and as a shadow to the other one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from serm import contracts, engine
from serm.pairs.documents import with_documents
from serm.relevance.interface import MAX_CHARACTERS, document_text, readable
from serm.rollout.split import Variant, variant
from serm.settings import Settings

VARIANTS: tuple[Variant, ...] = ("champion", "challenger")
PART_BYTES = 4_000_000
"""Of texts in one body; a request with more is sent in parts."""
BUSY_SECONDS = 120.0
_TURNED_AWAY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class Request:
    """A query as a user asked it, and the text of the documents that were shown, by position."""

    user_id: str
    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a variant answered: the documents' scores (0 to 3), how long it took, or the error."""

    milliseconds: float
    scores: tuple[float, ...] = ()
    error: str = ""
    lost: bool = False
    """Whether the error says nothing of the model: the server is gone, silent, stopping, or busy all the time."""


def sample(validated: Path, settings: Settings) -> list[Request]:
    """Draw ``serving.requests`` requests of the window by seed, or all when there are fewer.

    Shown documents that are no longer in the catalogue are left out.
    """
    serving = settings.serving
    with engine.connect(settings.engine) as connection:
        shown = contracts.scan(connection, validated / "impressions", contracts.IMPRESSIONS)
        documents = contracts.scan(connection, validated / "documents", contracts.DOCUMENTS)
        shown = with_documents(shown, documents)
        drawn = shown.select("query_id").distinct()
        place = (drawn.query_id + f" {serving.seed}").hexdigest("md5")
        drawn = drawn.order_by([place, drawn.query_id]).limit(serving.requests)
        rows = (
            with_documents(shown.semi_join(drawn, "query_id"), documents, ("title", "body"))
            .order_by(["query_id", "position", "doc_id"])
            .select("query_id", "user_id", "query", "title", "body")
            .to_pyarrow()
            .to_pylist()
        )
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        asked.setdefault(row["query_id"], []).append(row)
    return [
        Request(rows[0]["user_id"], rows[0]["query"], tuple(document_text(r["title"], r["body"]) for r in rows))
        for rows in asked.values()
    ]


def replay(client: httpx.Client, requests: Sequence[Request], concurrency: int) -> dict[str, list[Answer]]:
    """Send each request to both variants, at most ``concurrency`` at once; answers are in the requests' order."""
    sends = [(name, request) for request in requests for name in VARIANTS]
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda one: send(client, *one), sends))
    return {name: answers[number :: len(VARIANTS)] for number, name in enumerate(VARIANTS)}


def summarise(
    requests: Sequence[Request], answers: dict[str, list[Answer]], experiment: str, percent: int
) -> dict[str, Any]:
    """Return what the replay showed, for deploy.json.

    ``variants``: for each, the requests of its users (``served``) and of the other's (``shadow``), errors, latency in
    milliseconds over both (with ``serving.concurrency`` in flight) and the mean score. ``top1_agreement``: the share of
    requests, answered by both, whose best document is the same (null without any).
    """
    served = [variant(request.user_id, experiment, percent) for request in requests]
    both = [
        [one.scores for one in pair]
        for pair in zip(*(answers[name] for name in VARIANTS), strict=True)
        if not any(one.error for one in pair)
    ]
    same = [np.argmax(champion) == np.argmax(challenger) for champion, challenger in both]
    return {
        "requests": len(requests),
        "top1_agreement": round(float(np.mean(same)), 4) if same else None,
        "variants": {name: _variant(answers[name], served.count(name)) for name in VARIANTS},
    }


def latency(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Return p50, p95 and p99 of the answers' milliseconds, those with an error left out; None without any."""
    good = [answer.milliseconds for answer in answers if not answer.error]
    found = np.percentile(good, [50, 95, 99]).tolist() if good else [None] * 3
    names = ("p50", "p95", "p99")
    return {name: None if value is None else round(value, 1) for name, value in zip(names, found, strict=True)}


def _variant(answers: list[Answer], served: int) -> dict[str, Any]:
    good = [answer for answer in answers if not answer.error]
    scores = [score for answer in good for score in answer.scores]
    return {
        "served": served,
        "shadow": len(answers) - served,
        "errors": len(answers) - len(good),
        "latency_ms": latency(answers),
        "mean_score": round(float(np.mean(scores)), 4) if scores else None,
    }


def send(client: httpx.Client, name: str, request: Request) -> Answer:
    """Ask the model ``name`` for the request's scores, in as many requests as its texts need.

    Where the server is busy (429), ask again when it says so, up to ``BUSY_SECONDS``; the waiting is not counted.
    """
    scores: list[float] = []
    milliseconds = 0.0
    for instances in _parts(request):
        body = json.dumps({"instances": instances}, ensure_ascii=False).encode()
        try:
            response, seconds = _ask(client, f"/v1/models/{name}:predict", body)
        except httpx.HTTPError as error:
            return Answer(milliseconds, error=f"{type(error).__name__}: {error}", lost=True)
        milliseconds += 1000 * seconds
        if not response.is_success:
            told = f"HTTP {response.status_code}: {response.text[:200]}"
            return Answer(milliseconds, error=told, lost=response.status_code in _TURNED_AWAY)
        scores += [one["score"] for one in response.json()["predictions"]]
    return Answer(milliseconds, tuple(scores))


def _parts(request: Request) -> Iterator[list[dict[str, str]]]:
    """Yield the request's pairs in parts of at most ``PART_BYTES``, or one pair; texts as far as a model reads them."""
    query = readable(request.query, MAX_CHARACTERS)
    part: list[dict[str, str]] = []
    size = 0
    for document in request.documents:
        text = readable(document, MAX_CHARACTERS)
        more = len(query.encode()) + len(text.encode()) + 100
        if part and size + more > PART_BYTES:
            yield part
            part, size = [], 0
        part.append({"query": query, "document": text})
        size += more
    yield part


def _ask(client: httpx.Client, url: str, body: bytes) -> tuple[httpx.Response, float]:
    """Return the answer, and how many seconds it took."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        start = time.perf_counter()
        response = client.post(url, content=body, headers={"Content-Type": "application/json"})
        seconds = time.perf_counter() - start
        wait = float(response.headers.get("retry-after", 1))
        if response.status_code != HTTPStatus.TOO_MANY_REQUESTS or time.monotonic() + wait > deadline:
            return response, seconds
        time.sleep(wait)
