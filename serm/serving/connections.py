"""Sockets: connections that are not left half open, and a server that ends only when it has answered what it took."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

import uvicorn
from grpc import aio
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serm.errors import UserError
from serm.serving import servicer
from serm.serving.answering import Answering
from serm.serving.application import Application

HEADER_SECONDS = 10.0
"""How long a client may take from connecting, or from a request's first byte, to the end of the request's headers."""
LINGER_SECONDS = 10.0
"""How long a refused body may go on arriving, unread, and a last answer may take to be fetched."""
KEEP_ALIVE_SECONDS = 65
"""How long a connection may be idle between requests; longer than proxies (Envoy, Istio) keep theirs, as KServe has."""
MAX_HEADER_BYTES = 65_536
GRACE_SECONDS = 3
"""How long connections may take to end when all is answered."""
DRAIN_SECONDS = 25.0
"""How long what was accepted is worked on after SIGTERM; Kubernetes kills after 30. What is left then gets a 503."""
GIVEN_UP_SECONDS = 1.0
"""How long that may take; a body that is still on its way then is not waited for."""


_LOG = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which waits for ever for a client that began and fell silent, with deadlines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers = self._in_body = False
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse headers without an end."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()
                return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._deadline is None and self.timeout_keep_alive_task is None:
            self._within(HEADER_SECONDS)  # bytes that begin nothing, such as empty lines

    def on_message_begin(self) -> None:
        """Wait for the headers' end."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0
        if self._deadline is None:
            self._within(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """Leave the rest of the request to the application, which waits for its body no longer than it wants."""
        self._in_headers, self._in_body = False, True
        self._in_time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the body is here."""
        self._in_body = False
        self._in_time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for what is still on its way: a body that was refused, or the client that fetches its last answer."""
        super().on_response_complete()
        if self._in_body or self.transport.is_closing():
            self._within(LINGER_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, though its client has not fetched its answer."""
        self.transport.abort()

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 takes a free one.

    Raises:
        UserError: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot listen there ({error}); give another --host or --http-port.") from error


class Server(uvicorn.Server):
    """A server that a signal makes drain: not ready, new requests refused, accepted ones answered; then it ends.

    SIGHUP makes it read its models, or whatever it serves from, again.
    """

    def __init__(self, application: Answering, host: str = "127.0.0.1", grpc_port: int | None = None) -> None:
        """Answer for ``application``; a predictor's over gRPC too where a port is given, 0 for a free one."""
        config = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)
        self._application = application
        self._host, self._grpc_port = host, grpc_port
        self._grpc: aio.Server | None = None
        self.grpc_port = 0
        """gRPC's port, once it listens."""
        self._overdue = float("inf")
        self._reloads: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open gRPC's port too; raises ``UserError`` when it is taken."""
        if self._grpc_port is not None and isinstance(self._application, Application):
            self._grpc, self.grpc_port = await servicer.start(self._application, self._host, self._grpc_port)
            _LOG.info("Serving gRPC on %s:%d", self._host, self.grpc_port)
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        await super().startup(sockets)
        self._application.begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close gRPC's port too, and send the last spans."""
        if self._grpc is not None:
            await self._grpc.stop(GRACE_SECONDS)
        await super().shutdown(sockets)
        self._application.tracing.close()

    def _reload(self) -> None:
        if not self._application.draining:
            self._reloads = [one for one in self._reloads if not one.done()]
            self._reloads.append(asyncio.get_running_loop().create_task(self._application.reload()))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, and end at once at the second."""
        if self._application.draining:
            super().handle_exit(sig, frame)
        self._application.draining = True
        self._overdue = time.monotonic() + DRAIN_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether the drained server may end."""
        application = self._application
        if application.draining:
            late = time.monotonic() - self._overdue
            if late > 0:
                application.give_up()
            self.should_exit = self.should_exit or not application.accepted or late > GIVEN_UP_SECONDS
        return await super().on_tick(counter)
