"""A Kubernetes API server in small, on a real socket: resourceVersion, merge patches, 409, and faults on demand."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from serm.local_server import LocalServer

TOKEN = "a token of the tests"


class FakeCluster:
    """Its objects by path; ``faults`` are taken one for each request, in order.

    A fault: a status to answer without doing it; ``("done", status)`` to do it and answer that; ``"silent"`` to do it
    and never answer; ``"meddle"`` to let somebody else change the object's status first; ``None`` for none.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, dict[str, Any]] = {}
        self.faults: list[Any] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.forbidden: set[str] = set()
        """Beginnings of the paths that the token may not read."""
        self.denied: set[str] = set()
        """Resources that a SelfSubjectAccessReview says no to."""
        self.lock = threading.Lock()

    def put(self, path: str, value: dict[str, Any]) -> None:
        self.objects[path] = copy.deepcopy(value)
        self.objects[path].setdefault("metadata", {})["resourceVersion"] = "1"

    def meddle(self, path: str) -> None:
        self._touch(self.objects[path])

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, Any] | None:
        with self.lock:
            self.requests.append((method, path, body))
            fault = self.faults.pop(0) if self.faults else None
            if fault == "meddle":
                self.meddle(path)
            if isinstance(fault, int):
                return fault, {"kind": "Status", "message": "a fault of the tests"}
            status, value = self._do(method, path, body, headers)
        if fault == "silent":
            return None
        return (fault[1], {"kind": "Status"}) if isinstance(fault, tuple) else (status, value)

    def _do(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"kind": "Status", "message": "Unauthorized"}
        if path.endswith("/selfsubjectaccessreviews") and method == "POST":
            return 201, {"status": {"allowed": body["spec"]["resourceAttributes"]["resource"] not in self.denied}}
        if any(path.startswith(one) for one in self.forbidden):
            return 403, {"kind": "Status", "message": "forbidden"}
        if path not in self.objects:
            return 404, {"kind": "Status", "message": "not found"}
        found = self.objects[path]
        if method == "PATCH":
            if headers.get("Content-Type") != "application/merge-patch+json":
                return 415, {"kind": "Status", "message": "unsupported media type"}
            given = body.get("metadata", {}).pop("resourceVersion", None)
            if given is not None and given != found["metadata"]["resourceVersion"]:
                return 409, {"kind": "Status", "message": "the object has been modified"}
            _merge(found, body)
            self._touch(found)
        return 200, copy.deepcopy(found)

    def _touch(self, found: dict[str, Any]) -> None:
        found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            if not isinstance(into.get(name), dict):
                into[name] = {}
            _merge(into[name], value)
        else:
            into[name] = copy.deepcopy(value)


@contextmanager
def running() -> Iterator[FakeCluster]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            answer = cluster.answer(self.command, self.path, body, self.headers)
            if answer is None:
                time.sleep(1.0)
                self.close_connection = True
                return
            data = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PATCH = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with LocalServer(("127.0.0.1", 0), Handler) as server:
        cluster = FakeCluster(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield cluster
        finally:
            server.shutdown()
