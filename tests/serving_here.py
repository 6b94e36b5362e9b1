"""The predictor in this process, behind a real socket: a tenth of a second where a process of its own takes seven."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from serm.serving.answering import Answering
from serm.serving.connections import Server, listen
from serm.serving.predictor import application
from serm.settings.serving import PredictorSettings


@contextmanager
def serving(
    models: Mapping[str, Path], settings: PredictorSettings, grpc: bool = False, documents: Path | None = None
) -> Iterator[httpx.Client]:
    """Serve ``models`` until the block ends; yield a client, whose headers name gRPC's address where it is wanted."""
    with answering(application(models, settings, documents), grpc) as client:
        yield client


@contextmanager
def answering(application: Answering, grpc: bool = False) -> Iterator[httpx.Client]:
    """Let an application answer until the block ends; yield a client."""
    listening = listen("127.0.0.1", 0)
    server = Server(application, grpc_port=0 if grpc else None)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False, timeout=60
        ) as one:
            if grpc:
                while not server.started:
                    time.sleep(0.01)
                one.headers["x-grpc-address"] = f"127.0.0.1:{server.grpc_port}"
            yield one
    finally:
        server.should_exit = True
        thread.join()
