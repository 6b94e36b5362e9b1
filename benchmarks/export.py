"""Pairs a second, milliseconds a request and memory of an exported model, beside the trained one.

``python benchmarks/export.py WORKSPACE`` exports ``WORKSPACE/state/champion`` each way (each export is checked, and a
refused one is said), then scores the same test pairs and the same requests (one query, ``--page`` documents) in a
process of its own for each runtime, one after the other, and writes benchmarks/results/export.json: pairs/s (all at
once), median and 95th percentile of the milliseconds of a request, seconds to load, and peak memory over that of an
idle Python.

Timings are best of ``--repeats`` (pairs/s) on one machine: run it on an idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULT = Path(__file__).parent / "results" / "export.json"
WAYS = {
    "torch bf16": None,
    "torch fp32": None,
    "onnx fp32": ("onnx", "fp32"),
    "openvino fp32": ("openvino", "fp32"),
    "openvino int8": ("openvino", "int8"),
    "openvino int8-pairs": ("openvino", "int8-pairs"),
    "openvino int8-weights": ("openvino", "int8-weights"),
}


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="a workspace with state/champion, cycle/ and tests/")
    parser.add_argument("--champion", type=Path, help="the model to export; WORKSPACE/state/champion")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--page", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, options)))
        return
    champion = options.champion or options.workspace / "state" / "champion"
    found: dict[str, object] = {}
    load = [round(os.getloadavg()[0], 1)]
    with tempfile.TemporaryDirectory() as folder:
        for way, target in WAYS.items():
            model = champion
            check: dict[str, object] = {}
            if target:
                model = Path(folder) / way.replace(" ", "-")
                check = export(champion, options.workspace, model, *target)
            found[way] = check if "refused" in check else {**run(way, model, options), **check}
            print(f"{way}: {json.dumps(found[way])}", file=sys.stderr)
    names = ("numpy", "nncf", "onnxruntime", "openvino", "torch", "transformers")
    result = {
        "command": "python benchmarks/export.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "load_average": [*load, round(os.getloadavg()[0], 1)],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
        **{name: getattr(options, name) for name in ("pairs", "requests", "page", "repeats", "threads")},
        "ways": found,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def export(champion: Path, workspace: Path, out: Path, runtime: str, precision: str) -> dict[str, object]:
    """Export in this process; return the check's figures, or why it was refused."""
    from serm.errors import UserError
    from serm.release import export as exporting

    cycle = workspace / "cycle"
    try:
        return dict(
            exporting.export(champion, cycle / "mine", workspace / "tests", cycle / "validate", out, runtime, precision)
        )
    except UserError as error:
        return {"refused": str(error)}


def run(way: str, model: Path, options: argparse.Namespace) -> dict[str, object]:
    """Measure in a process of its own."""
    numbers = [f"--{name}={getattr(options, name)}" for name in ("pairs", "requests", "page", "repeats", "threads")]
    command = [sys.executable, __file__, str(options.workspace), *numbers, "--child", way, str(model)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(way: str, model: str, options: argparse.Namespace) -> dict[str, object]:
    """Load the model and score: what this process prints."""
    queries, documents = texts(options)
    idle = resident()
    start = time.perf_counter()
    if way == "torch fp32":
        import torch

        torch.cpu._is_avx512_bf16_supported = lambda: False  # the model asks this before it takes bf16
    from serm import relevance

    scorer = relevance.load_scorer(Path(model))
    loading = time.perf_counter() - start
    scorer.score(queries[: options.page], documents[: options.page])
    rates = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        forget(scorer)
        scorer.score(queries, documents)
        rates.append(len(queries) / (time.perf_counter() - start))
    milliseconds = []
    for number in range(options.requests):
        first = number * options.page % max(1, len(queries) - options.page)
        forget(scorer)
        start = time.perf_counter()
        scorer.score([queries[first]] * options.page, documents[first : first + options.page])
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {
        "pairs_per_second": round(max(rates), 1),
        "request_ms_p50": round(float(np.percentile(milliseconds, 50)), 1),
        "request_ms_p95": round(float(np.percentile(milliseconds, 95)), 1),
        "load_seconds": round(loading, 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - idle),
    }


def texts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the first test pairs, in the order of the test sets: a query's documents stand together."""
    from serm import engine as engines
    from serm.evaluation import pools
    from serm.settings import EngineSettings

    with engines.connect(EngineSettings()) as engine:
        found = pools.judged(engine, options.workspace / "tests", options.workspace / "cycle" / "validate")
    pool = found.pairs.slice(0, options.pairs)
    return pool["query"].to_pylist(), pool["text"].to_pylist()


def forget(scorer: object) -> None:
    """Take from the trained model what it keeps of the texts before, so that each timing pays for its own."""
    encoder = getattr(scorer, "encoder", None)
    if encoder is not None:
        encoder._last.clear()


def resident() -> float:
    """Return this process's peak memory so far in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
