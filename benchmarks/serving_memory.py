"""What a predictor holds in memory while many one-pair requests come, each of a text that it has never seen.

``python benchmarks/serving_memory.py --requests 200000`` writes benchmarks/results/serving_memory.json: megabytes,
threads and open files of the server's process at the start and after each tenth. The model is 16 numbers wide with
random weights, so that the server's own work is nearly all there is; 5 MB are for known texts, so that the cache is
full soon and stays so. Requests go over 32 connections, new ones each tenth.
"""

from __future__ import annotations

import argparse
import json
import platform
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil

from serm.serving.server import running
from serm.settings.serving import PredictorSettings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tiny_models

RESULT = Path(__file__).parent / "results" / "serving_memory.json"
CONNECTIONS, PARTS = 32, 10


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    each = options.requests // PARTS // CONNECTIONS
    with tempfile.TemporaryDirectory() as folder:
        root, before = Path(folder), set(psutil.Process().children())
        tiny_models.save(root / "model", root / "base", 0)
        with running({"model": root / "model"}, PredictorSettings(document_cache_mb=5)) as ready:
            client = ready()
            (server,) = set(psutil.Process().children()) - before
            found = [_seen(server, 0, 0.0)]
            start = time.perf_counter()
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                for part in range(1, PARTS + 1):
                    list(pool.map(lambda number, part=part: _ask(client, number, part, each), range(CONNECTIONS)))
                    found.append(_seen(server, part * each * CONNECTIONS, time.perf_counter() - start))
                    print(json.dumps(found[-1]), flush=True)
    grown = {f"{what}_since_a_tenth": found[-1][what] - found[1][what] for what in ("megabytes", "threads", "files")}
    about = {"date": str(date.today()), "processor": platform.processor() or platform.machine()}
    told = {**about, "summary": {"requests": found[-1]["after"], **grown}, "seen": found}
    options.out.write_text(json.dumps(told, indent=2) + "\n")


def _seen(server: psutil.Process, requests: int, seconds: float) -> dict[str, Any]:
    told = {"megabytes": round(server.memory_info().rss / 1e6, 1), "threads": server.num_threads()}
    return {"after": requests, "seconds": round(seconds, 1), **told, "files": server.num_fds()}


def _ask(client: httpx.Client, number: int, part: int, count: int) -> None:
    """Send ``count`` requests one after the other, each with words of its own; all are answered with 200."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=120) as opened:
        answers = opened.makefile("rb")
        for row in range(count):
            body = json.dumps({"query": f"red {row % 50}", "documents": [f"cat {part} {number} {row}"]}).encode()
            opened.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            status, length = answers.readline(), 0
            while (line := answers.readline().strip().lower()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name == b"content-length" else length
            assert b" 200 " in status, status + answers.read(length)
            answers.read(length)


if __name__ == "__main__":
    main()
