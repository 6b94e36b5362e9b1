"""A server that takes whatever is posted to it, as a collector of traces or a sink of events does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from serm.local_server import LocalServer


@dataclass(frozen=True)
class Posted:
    """What came in one request."""

    path: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def listening(status: int = 202) -> Iterator[tuple[str, list[Posted]]]:
    """Answer every POST with ``status`` until the block ends; yield the address, and what came."""
    came: list[Posted] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(Posted(self.path, dict(self.headers), body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = LocalServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
