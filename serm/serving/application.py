"""The predictor's HTTP application: KServe's routes that a relevance model needs, rerankers' routes, and no others.

KServe's own application also loads and unloads models for whoever asks, calls a server ready that answers nothing, and
echoes a bad request; so the routes are listed here, and what is not listed is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serm.serving import openapi
from serm.serving.access import AccessLog
from serm.serving.batching import Batcher
from serm.serving.protocols import rerank, v1, v2
from serm.serving.protocols.request import Read, json_object
from serm.serving.refusals import Busy, Refusal, Stopping, TooLarge, UnknownModel, refusal
from serm.serving.served import READING, ServedModel

RERANK = ("/rerank", "/v1/rerank", "/v2/rerank", "/openai/v1/rerank")
BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
EXTENSIONS = ["binary_tensor_data"]
HELD_BODIES = 4
"""Bodies of the greatest size that may be in memory at once; beyond them the answer is 429."""
CLOSED = 499
"""The status, which nobody sees, of a request whose client has gone (nginx's number)."""
Ask = Callable[[bytes], Awaitable[tuple[str, Read]]]
Told = Callable[[Refusal], object]
T = TypeVar("T")


def _told(refused: Refusal) -> object:
    return {"error": refused.reason}


class Application:
    """Answers HTTP for named models, within bounds, until it is told to drain."""

    def __init__(self, models: Mapping[str, ServedModel], batcher: Batcher) -> None:
        """Answer for ``models``; the first is asked by who names none. ``batcher`` scores for all of them."""
        self.models = models
        self.batcher = batcher
        self.max_body = batcher.settings.max_body_mb * 1_000_000
        self.draining = False
        """Whether new requests are refused (503), and readiness says no."""
        self.accepted = 0
        """Requests for scores that were taken and whose answer is not written yet."""
        self.log = AccessLog(batcher.settings.access_log).write
        self._held = 0
        self.routes = (
            Route("/", self._live_v1),
            Route("/info", self._info),
            Route("/metrics", _metrics),
            Route("/openapi.json", self._openapi),
            *(Route(path, self._rerank, methods=["POST"]) for path in RERANK),
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
        )
        self._answering: ASGIApp = Starlette(routes=self.routes, exception_handlers={HTTPException: _http_error})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; while draining, its connection is closed behind the answer."""
        start, status, arrived = time.perf_counter(), 0, False

        async def receiving() -> Message:
            nonlocal arrived
            message = await receive()
            arrived = arrived or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            # Where the body is still on its way, closing would take the answer from its sender.
            if message["type"] == "http.response.start" and self.draining and (arrived or scope["method"] == "GET"):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._answering(scope, receiving, sending)
        finally:
            self.accepted -= scope.get("serm.accepted", False)
            if "serm.accepted" in scope:
                asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
                self.log(scope["method"], scope["path"], status, start, scope.get("serm.answered"), asked)

    async def _live_v1(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def _live_v2(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        return _json({"ready": not self.draining}, 503 if self.draining else 200)

    async def _names(self, request: Request) -> Response:
        return _json({"models": list(self.models)})

    async def _info(self, request: Request) -> Response:
        """Say what is served, in the words of text-embeddings-inference."""
        (first, model), limits = next(iter(self.models.items())), self.batcher.settings
        told = {"model_id": first, "model_sha": model.model.version, "model_type": {"reranker": {}}}
        sizes = {"max_input_length": model.model.max_tokens, "max_batch_tokens": limits.batch_tokens}
        most = {"max_client_batch_size": limits.max_request_pairs, "auto_truncate": True}
        models = {name: {"version": one.model.version} for name, one in self.models.items()}
        return _json({**told, **sizes, **most, "version": version("serm"), "models": models})

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi.document(version("serm"), RERANK, self.batcher.settings))

    async def _model(self, request: Request) -> Response:
        name = self._known(request)
        told = {"name": name, "versions": [self.models[name].model.version], "platform": ""}
        return _json({**told, "inputs": v2.input_types(), "outputs": v2.output_types()})

    async def _model_ready(self, request: Request) -> Response:
        return _json({"name": self._known(request), "ready": not self.draining}, 503 if self.draining else 200)

    async def _predict(self, request: Request) -> Response:
        name = self._known(request)

        async def ask(body: bytes) -> tuple[str, Read]:
            return name, partial(v1.read, body)

        return await self._scored(request, ask)

    async def _infer(self, request: Request) -> Response:
        name = self._known(request)

        async def ask(body: bytes) -> tuple[str, Read]:
            return name, partial(v2.read, body, request.headers.get(v2.JSON_LENGTH))

        return await self._scored(request, ask)

    async def _rerank(self, request: Request) -> Response:
        tei = False

        async def ask(body: bytes) -> tuple[str, Read]:
            nonlocal tei
            payload = await asyncio.get_running_loop().run_in_executor(READING, json_object, body)
            tei = "texts" in payload
            name = payload.get("model") or next(iter(self.models))
            if not isinstance(name, str) or name not in self.models:
                raise UnknownModel
            return name, partial(rerank.read, payload)

        return await self._scored(request, ask, lambda refused: rerank.refused(refused) if tei else _told(refused))

    async def _scored(self, request: Request, ask: Ask, told: Told = _told) -> Response:
        """Read the body, let the model that ``ask`` finds answer it, and tell a refusal as ``told`` has it."""
        request.scope["serm.accepted"] = not self.draining
        self.accepted += not self.draining
        try:
            body = await self._body(request)
            try:
                if not request.scope["serm.accepted"]:
                    raise Stopping
                name, read = await ask(body)
                answered = (await _while_there(request, self.models[name](read, dict(request.headers))))[0]
                request.scope["serm.answered"] = answered
            finally:
                self._held -= len(body)
        except TimeoutError:
            return _refused(Refusal(408, f"body: not here after {BODY_SECONDS:.0f} s."), told)
        except ClientDisconnect:
            return Response(status_code=CLOSED)
        except Exception as error:
            return _refused(refusal(error), told)
        return Response(answered.answer.data, headers=dict(answered.answer.headers))

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
                        raise Busy(self.batcher.retry_after())
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
    return _json({"name": "serm", "version": version("serm"), "extensions": EXTENSIONS})


async def _metrics(request: Request) -> Response:
    return Response(await run_in_threadpool(generate_latest), media_type=CONTENT_TYPE_LATEST)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail or HTTPStatus(error.status_code).phrase}, error.status_code)


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work for as long as its client is there to get it; raises ``ClientDisconnect`` when it is not."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(refused: Refusal, told: Told) -> Response:
    response = _json(told(refused), refused.status)
    if refused.retry_after is not None:
        response.headers["retry-after"] = str(refused.retry_after)
    return response


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
