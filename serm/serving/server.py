"""The predictor that KServe runs, as a child process on loopback, for as long as a block runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from serm.errors import UserError
from serm.settings.serving import PredictorSettings

READY_SECONDS = 240.0
"""How long the server may take to load its models: some 6 on an idle machine, many times that on a starved one."""
STOP_SECONDS = 30.0
"""How long it may take to end after SIGTERM, when it answers what it accepted; then it is killed."""
ANSWER_SECONDS = 120.0
_DEFAULTS = PredictorSettings()
_ADDRESS = re.compile(r" on (http://127\.0\.0\.1:\d+)$", re.MULTILINE)


class NotServingError(UserError):
    """The server ended, or is not ready in time; ``what`` says it in words that are the same in each run."""

    def __init__(self, what: str, log: Path) -> None:
        super().__init__(f"{what.removesuffix('.')}: {_last_words(log)}")
        self.what = what


@contextmanager
def running(
    models: Mapping[str, Path], settings: PredictorSettings = _DEFAULTS
) -> Iterator[Callable[[], httpx.Client]]:
    """Start ``serm.serving.predictor`` with ``models``, name -> directory, and stop it when the block ends.

    It takes and keeps what ``settings`` say, but requests may wait as long as the client, however busy the machine is.

    Yields a function that waits until all models are ready and returns a client, so that the caller can prepare its
    requests while the models load. It raises ``NotServingError``, with the server's last words, when the server ended
    or is not ready in time.
    """
    command = [sys.executable, "-m", "serm.serving.predictor", "--host", "127.0.0.1", "--http-port", "0"]
    for name, path in models.items():
        command += ["--model", f"{name}={path}"]
    command += settings.model_copy(update={"deadline_seconds": ANSWER_SECONDS}).arguments()
    # Spinning OpenMP threads cost ten times the work of a small batch when the cores are busy.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    with tempfile.NamedTemporaryFile() as file:
        log = Path(file.name)
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            # The server is on this machine: no proxy from the environment.
            with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
                yield lambda: _ready(server, client, list(models), log)
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _ready(server: subprocess.Popen[bytes], client: httpx.Client, names: list[str], log: Path) -> httpx.Client:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise NotServingError(f"The model server ended with code {server.returncode}.", log)
        if found := _ADDRESS.search(_text(log)):
            client.base_url = httpx.URL(found[1])
            with suppress(httpx.HTTPError):  # it may end between its first word and this question
                if all(client.get(f"/v2/models/{name}/ready").is_success for name in names):
                    return client
        time.sleep(0.1)
    raise NotServingError(f"The model server was not ready after {READY_SECONDS:.0f} s.", log)


def _text(log: Path) -> str:
    # Read by its name: the server writes at the place that a file object shared with it would be moved from.
    return log.read_text(encoding="utf-8", errors="replace")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in _text(log).splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "it said nothing."
