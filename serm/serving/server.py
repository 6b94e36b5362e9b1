"""A real KServe ModelServer as a child process, for as long as a block runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from serm.errors import UserError

READY_SECONDS = 240.0
"""How long the server may take to load its models: some 6 on an idle machine, many times that on a starved one."""
STOP_SECONDS = 10.0
"""How long it may take to end after SIGTERM; then it is killed."""


@contextmanager
def running(models: Mapping[str, Path]) -> Iterator[Callable[[], httpx.Client]]:
    """Start ``serm.serving.predictor`` with ``models``, name -> directory, and stop it when the block ends.

    Yields a function that waits until all models are ready and returns a client, so that the caller can prepare its
    requests while the models load. It raises ``UserError``, with the server's last words, when the server ended or
    is not ready in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serm.serving.predictor", "--http-port", str(port)]
    for name, path in models.items():
        command += ["--model", f"{name}={path}"]
    # Spinning OpenMP threads cost ten times the work of a small batch when the cores are busy.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            # The server is on this machine: no proxy from the environment.
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                yield lambda: _ready(server, client, list(models), log)
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _ready(server: subprocess.Popen[bytes], client: httpx.Client, names: list[str], log: IO[str]) -> httpx.Client:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(f"The KServe model server ended with code {server.returncode}: {_last_words(log)}")
        try:
            if all(client.get(f"/v2/models/{name}/ready").is_success for name in names):
                return client
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise UserError(f"The KServe model server was not ready after {READY_SECONDS:.0f} s: {_last_words(log)}")


def _last_words(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "it said nothing."
