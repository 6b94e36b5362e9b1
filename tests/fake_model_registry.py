"""Kubeflow's Model Registry in small, on a real socket: names are unique, and it can fail as it does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from serm.local_server import LocalServer

API = "/api/model_registry/v1alpha3/"
#: What each kind must say and may say, as model-registry.yaml has it.
FIELDS = {
    "registered_models": ({"name"}, {"name"}),
    "model_versions": (
        {"name", "registeredModelId"},
        {"name", "registeredModelId", "author", "customProperties"},
    ),
    "artifacts": ({"artifactType"}, {"artifactType", "name", "uri", "modelFormatName", "state"}),
}
FOUND = {"registered_model": "registered_models", "model_version": "model_versions", "model_artifact": "artifacts"}


class FakeModelRegistry:
    """What it has by kind; ``faults`` are taken one for each POST: a status, ``"done, 503"``, or None for none."""

    def __init__(self) -> None:
        self.url, self.token = "", ""
        self.things: dict[str, list[dict[str, Any]]] = {kind: [] for kind in FIELDS}
        self.faults: list[Any] = []

    def get(self, kind: str, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        for one in self.things.get(FOUND.get(kind, kind), []):
            if one["name"] == asked["name"] and one.get("parent") == asked.get("parentResourceId"):
                return 200, one
        return 404, {"code": "", "message": "no such thing"}

    def post(self, path: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        nested = re.fullmatch(r"model_versions/(\d+)/artifacts", path)
        kind = "artifacts" if nested else path
        needed, known = FIELDS[kind]
        if not needed <= given.keys() <= known:
            return 400, {"code": "Bad Request", "message": f"{sorted(given)}"}
        for value in given.get("customProperties", {}).values():
            assert value.keys() == {"metadataType", "string_value"}
            assert value["metadataType"] == "MetadataStringValue"
        parent = nested[1] if nested else given.get("registeredModelId")
        if any((one["name"], one.get("parent")) == (given["name"], parent) for one in self.things[kind]):
            return 409, {"code": "Conflict", "message": "already exists"}
        made = {**given, "id": str(1 + sum(map(len, self.things.values()))), **({"parent": parent} if parent else {})}
        self.things[kind].append(made)
        return 201, made


@contextmanager
def fake_model_registry() -> Iterator[FakeModelRegistry]:
    """Answer until the block ends."""
    fake = FakeModelRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def allowed(self) -> bool:
            return not fake.token or self.headers["authorization"] == f"Bearer {fake.token}"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if not self.allowed():
                self.answer(401, {"code": "Unauthorized", "message": "who are you"})
            else:
                self.answer(*fake.get(url.path.removeprefix(API), dict(parse_qsl(url.query))))

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fault = fake.faults.pop(0) if fake.faults else None
            if isinstance(fault, int):
                self.answer(fault, {"code": "", "message": "not now"})
                return
            done = fake.post(urlsplit(self.path).path.removeprefix(API), given)
            self.answer(*((503, {"code": "", "message": "lost"}) if fault else done))

        def log_message(self, *args: Any) -> None:
            pass

    server = LocalServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
