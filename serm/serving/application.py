"""The predictor's HTTP application: KServe's routes that a relevance model needs, and no others.

KServe's own application also loads and unloads models for whoever asks, calls a server ready that answers nothing, and
echoes a bad request; so the routes are listed here, and what is not listed is not there.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

import orjson
from kserve.errors import InvalidInput
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serm.serving import protocol
from serm.serving.protocol import JSON_LENGTH, Body, TooLarge, Version
from serm.serving.scoring import Busy, Scoring, Stopping

if TYPE_CHECKING:
    from serm.serving.predictor import Predictor

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
HELD_BODIES = 4
"""Bodies of the greatest size that may be in memory at once; beyond them the answer is 429."""
CLOSED = 499
"""The status, which nobody sees, of a request whose client has gone (nginx's number)."""
_LOG = logging.getLogger(__name__)


class Application:
    """Answers HTTP for named models, within bounds, until it is told to drain."""

    def __init__(self, models: Mapping[str, Predictor], scoring: Scoring, max_body: int) -> None:
        """Answer for ``models``, whose bodies may have at most ``max_body`` bytes."""
        self.models = models
        self.scoring = scoring
        self.max_body = max_body
        self.draining = False
        """Whether new requests are refused (503), and readiness says no."""
        self.accepted = 0
        """Requests for scores that were taken and whose answer is not written yet."""
        self._held = 0
        self._routes: ASGIApp = Starlette(
            routes=[
                Route("/", self._live_v1),
                Route("/metrics", _metrics),
                Route("/v1/models", self._names),
                Route("/v1/models/{name}:predict", self._predict, methods=["POST"]),
                Route("/v1/models/{name}", self._model_ready),
                Route("/v2", _metadata),
                Route("/v2/health/live", self._live_v2),
                Route("/v2/health/ready", self._ready),
                Route("/v2/models", self._names),
                Route("/v2/models/{name}", self._model),
                Route("/v2/models/{name}/ready", self._model_ready),
                Route("/v2/models/{name}/infer", self._infer, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; while draining, its connection is closed behind the answer."""
        arrived = False

        async def receiving() -> Message:
            nonlocal arrived
            message = await receive()
            arrived = arrived or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            # Where the body is still on its way, closing would take the answer from its sender.
            if message["type"] == "http.response.start" and self.draining and (arrived or scope["method"] == "GET"):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._routes(scope, receiving, sending)
        finally:
            self.accepted -= scope.get("serm.accepted", False)

    async def _live_v1(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def _live_v2(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        return _json({"ready": not self.draining}, 503 if self.draining else 200)

    async def _names(self, request: Request) -> Response:
        return _json({"models": list(self.models)})

    async def _model(self, request: Request) -> Response:
        name = self._known(request)
        told = {"name": name, "versions": [self.models[name].model.version], "platform": ""}
        return _json({**told, "inputs": protocol.input_types(), "outputs": protocol.output_types()})

    async def _model_ready(self, request: Request) -> Response:
        return _json({"name": self._known(request), "ready": not self.draining}, 503 if self.draining else 200)

    async def _predict(self, request: Request) -> Response:
        return await self._scored(request, "v1")

    async def _infer(self, request: Request) -> Response:
        return await self._scored(request, "v2")

    async def _scored(self, request: Request, version: Version) -> Response:
        model = self.models[self._known(request)]
        request.scope["serm.accepted"] = not self.draining
        self.accepted += not self.draining
        try:
            body = await self._body(request)
            try:
                if not request.scope["serm.accepted"]:
                    raise Stopping
                answer = (await model(Body(version, body, request.headers.get(JSON_LENGTH))))[0]
            finally:
                self._held -= len(body)
        except InvalidInput as error:
            return _error(400, str(error))
        except TooLarge as error:
            return _error(413, str(error))
        except TimeoutError:
            return _error(408, f"body: not here after {BODY_SECONDS:.0f} s.")
        except Busy as error:
            return _error(429, "The queue is full; ask again later.", error.retry_after)
        except Stopping:
            return _error(503, "The server is stopping; ask another one.", 1)
        except ClientDisconnect:
            return Response(status_code=CLOSED)
        except Exception as error:  # whatever it is, its words may hold a searcher's
            where = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("A request failed with %s (its words are left out):\n%s", type(error).__name__, where)
            return _error(500, "The server failed on this request; its log says where.")
        return Response(answer.data, headers=dict(answer.headers))

    async def _body(self, request: Request) -> bytes:
        """Return the body, counted in ``_held`` until its caller takes it off."""
        told = request.headers.get("content-length", "0")
        if not told.isdecimal() or int(told) > self.max_body:
            raise self._too_large()
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    data += chunk
                    self._held += len(chunk)
                    if len(data) > self.max_body:
                        raise self._too_large()
                    if self._held > HELD_BODIES * self.max_body:
                        raise Busy(self.scoring.retry_after())
        except BaseException:
            self._held -= len(data)
            raise
        return bytes(data)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"body: at most {self.max_body:,} bytes are taken in one request; split it.")

    def _known(self, request: Request) -> str:
        name = str(request.path_params["name"])
        if name not in self.models:
            raise HTTPException(404, "No model has this name.")
        return name


async def _metadata(request: Request) -> Response:
    return _json({"name": "serm", "version": version("serm"), "extensions": ["binary_tensor_data"]})


async def _metrics(request: Request) -> Response:
    return Response(await run_in_threadpool(generate_latest), media_type=CONTENT_TYPE_LATEST)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail or HTTPStatus(error.status_code).phrase)


def _error(status: int, reason: str, retry_after: int | None = None) -> Response:
    response = _json({"error": reason}, status)
    if retry_after is not None:
        response.headers["retry-after"] = str(retry_after)
    return response


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
