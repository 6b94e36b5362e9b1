"""HTTP within bounds, whatever is asked: bodies of a size and in time, a drain, and refusals that tell nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Literal, TypeVar

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serm.serving.access import AccessLog
from serm.serving.refusals import Busy, Refusal, Stopping, TooLarge, refusal
from serm.serving.tracing import Tracing

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
HELD_BODIES = 4
"""Bodies of the greatest size that may be in memory at once; beyond them the answer is 429."""
CLOSED = 499
"""The status, which nobody sees, of a request whose client has gone (nginx's number)."""
Told = Callable[[Refusal], object]
T = TypeVar("T")


def told_plainly(refused: Refusal) -> object:
    """Return what a client is told of a refusal."""
    return {"error": refused.reason}


class Answering:
    """An HTTP application that takes bodies within bounds, until it is told to drain."""

    def __init__(
        self,
        service: str,
        routes: tuple[Route, ...],
        max_body_mb: int,
        access_log: Literal["none", "requests", "queries"],
    ) -> None:
        """Answer on ``routes``; ``service`` is its name in traces."""
        self.routes = routes
        self.max_body = max_body_mb * 1_000_000
        self.draining = False
        """Whether new requests are refused (503), and readiness says no."""
        self.accepted = 0
        """Requests that were taken and whose answer is not written yet."""
        self.log = AccessLog(access_log).write
        self.tracing = Tracing(service)
        self._held = 0
        self._answering: ASGIApp = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})

    def begin(self) -> None:
        """Begin what is done beside answering; called once, on the loop that answers."""

    async def reload(self) -> None:
        """Take up what has changed since the start."""

    def give_up(self) -> None:
        """Refuse what was accepted and still waits, for the time to drain is over."""

    def retry_after(self) -> int:
        """Return the seconds after which who is refused may come again."""
        return 1

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
            if "serm.accepted" in scope or scope["method"] == "POST":  # one for a model that is not there, too
                asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
                self.log(scope["method"], scope["path"], status, start, scope.get("serm.answered"), asked)

    async def answer(
        self, request: Request, work: Callable[[bytes], Coroutine[Any, Any, Response]], told: Told = told_plainly
    ) -> Response:
        """Read the body, answer it by ``work`` while its client is there, and tell a refusal as ``told`` has it.

        The ``Answered`` that ``work`` puts at ``request.scope["serm.answered"]`` goes to the access log.
        """
        route = getattr(request.scope.get("route"), "path", request.url.path)
        attributes = {"http.request.method": request.method, "http.route": route}
        with self.tracing.request(f"{request.method} {route}", request.headers, attributes) as span:
            response = await self._answered(request, work, told)
            answered = request.scope.get("serm.answered")
            span.set_attribute("http.response.status_code", response.status_code)
            self.tracing.answered(span, response.status_code, answered)
        return response

    async def _answered(
        self, request: Request, work: Callable[[bytes], Coroutine[Any, Any, Response]], told: Told
    ) -> Response:
        request.scope["serm.accepted"] = not self.draining
        self.accepted += not self.draining
        try:
            body = await self._body(request)
            try:
                if not request.scope["serm.accepted"]:
                    raise Stopping
                return await _while_there(request, work(body))
            finally:
                self._held -= len(body)
        except TimeoutError:
            return _refused(Refusal(408, f"body: not here after {BODY_SECONDS:.0f} s."), told)
        except ClientDisconnect:
            return Response(status_code=CLOSED)
        except Exception as error:
            return _refused(refusal(error), told)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a message of ``size`` bytes among the bodies in memory; raises ``Busy`` where they are too many."""
        self._held += size
        try:
            if self._held > HELD_BODIES * self.max_body:
                raise Busy(self.retry_after())
            yield
        finally:
            self._held -= size

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
                        raise Busy(self.retry_after())
        except BaseException:
            self._held -= len(data)
            raise
        return bytes(data)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"body: at most {self.max_body:,} bytes are taken in one request; split it.")


async def metrics_page(request: Request) -> Response:
    """Show Prometheus what this process counted."""
    return Response(await run_in_threadpool(generate_latest), media_type=CONTENT_TYPE_LATEST)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return as_json({"error": error.detail or HTTPStatus(error.status_code).phrase}, error.status_code, error.headers)


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
    response = as_json(told(refused), refused.status)
    if refused.retry_after is not None:
        response.headers["retry-after"] = str(refused.retry_after)
    return response


def as_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response in JSON."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
