"""The predictors behind the transformer: asked for scores in KServe's v1 protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import orjson

from serm.errors import UserError
from serm.rollout.assignment import GROUP_HEADER
from serm.serving.refusals import Busy, Unavailable
from serm.serving.served import DEADLINE

MAX_CONNECTIONS = 256
PASSED_ON = ("traceparent", "tracestate", "x-request-id", GROUP_HEADER)
"""Headers that a predictor gets too, so that a trace and an access log tell one request; the last says which model is
asked, so that a gateway that both stand behind sends it there."""


def http_url(flag: str, text: str, form: str) -> httpx.URL:
    """Return the URL that an option has; raises ``UserError``, which tells the ``form`` wanted, where it is none."""
    try:
        found = httpx.URL(text)
    except httpx.InvalidURL:
        found = httpx.URL()
    if found.scheme not in ("http", "https") or not found.host or (found.port or 0) > 65_535:
        raise UserError(f"{flag} {text!r}: expected {form}.")
    return found


@dataclass(frozen=True)
class Scored:
    """What a predictor made of documents."""

    scores: Sequence[float]
    """Expected grades, 0 to 3, in the documents' order."""
    version: str
    """The model's."""


class Predictor:
    """A served model, at ``http://HOST:PORT/v1/models/NAME``."""

    def __init__(self, url: str, client: httpx.AsyncClient, probing: httpx.AsyncClient) -> None:
        """Ask it by ``client``, and whether it is ready by ``probing``, which waits for no request's connection."""
        self.url = url.rstrip("/")
        self._client, self._probing = client, probing

    async def score(
        self, query: str, documents: Sequence[str], seconds: float, came: Mapping[str, str] | None = None
    ) -> Scored:
        """Return the scores of at least one document for a query; the answer may take ``seconds``.

        Of the headers that ``came`` with the request, the predictor gets ``PASSED_ON``.

        Raises:
            Busy: its queue is full.
            Unavailable: it cannot be reached, is late, or answers something else.
        """
        instances = [{"query": query, "document": document} for document in documents]
        headers = {name: came[name] for name in PASSED_ON if came and name in came}
        headers |= {"content-type": "application/json", DEADLINE: str(max(1, int(1000 * seconds)))}
        try:
            body = orjson.dumps({"instances": instances})
            async with asyncio.timeout(seconds):  # httpx bounds each step: a byte now and then would hold it for ever
                answer = await self._client.post(f"{self.url}:predict", content=body, headers=headers, timeout=seconds)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"{self.url}: {type(error).__name__}") from error
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            after = answer.headers.get("retry-after", "")
            raise Busy(int(after) if after.isdecimal() and len(after) < 5 else 1)
        if not answer.is_success:
            raise Unavailable(f"{self.url}: HTTP {answer.status_code}")
        return self._read(answer.content, len(documents))

    async def is_ready(self, seconds: float = 2.0) -> bool:
        """Say whether it takes requests."""
        try:
            async with asyncio.timeout(seconds):
                return (await self._probing.get(self.url, timeout=seconds)).is_success
        except (httpx.HTTPError, TimeoutError):
            return False

    def _read(self, body: bytes, count: int) -> Scored:
        try:
            told = orjson.loads(body)
            scores = [float(one["score"]) for one in told["predictions"]]
            version = str(told["model_version"])[:200]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.url}: answers no predictions") from error
        if len(scores) != count or not all(map(math.isfinite, scores)):
            raise Unavailable(f"{self.url}: {len(scores)} scores for {count} documents, or one that is no number")
        return Scored(scores, version)
