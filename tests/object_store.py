"""An S3-compatible server on this machine: moto's, which speaks S3 over HTTP and keeps objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "search"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def over_s3() -> Iterator[str]:
    """Serve an empty bucket until the block ends, with its keys in the environment; yield the address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        httpx.put(f"http://{host}:{port}/{BUCKET}", trust_env=False).raise_for_status()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()
