"""The same model trained and scored on the CPU and on the GPU that is at hand, alone and as DDP.

    python benchmarks/gpu.py DIRECTORY [--queries 300] [--tests 150] [--epochs 2]

Each way trains the first champion on the same emoji judgments in processes of its own (torchrun for DDP; gloo on the
CPU, NCCL on CUDA), then scores the same frozen test set: pairs a second of both, and NDCG@10, which must agree within
what rounding moves. Where torch sees no CUDA device, the GPU's ways are left out, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serm import contracts, relevance, training
from serm.atomic import write_json
from serm.relevance import document_text
from serm.settings import Settings
from serm.training.processes import processes
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld

RESULT = Path(__file__).parent / "results" / "gpu.json"
#: A way's processes under torchrun (0: without), and whether the GPU is seen.
WAYS = {
    "cpu": (0, False),
    "cpu, DDP of two processes": (2, False),
    "gpu": (0, True),
    "gpu, DDP of one process": (1, True),
}


def main() -> None:
    """Run each way, and write what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--queries", type=int, default=300, help="Emoji queries to learn from, ten pairs each.")
    parser.add_argument("--tests", type=int, default=150, help="Frozen emoji queries, 16 pairs each.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    options.directory.mkdir(parents=True, exist_ok=True)
    write_world(options)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    ways = {name: measure(options, name) for name, (_, cuda) in WAYS.items() if card or not cuda}
    scores = {name: np.load(options.directory / f"{name}.npy") for name in ways}
    found = {
        "card": card or "none: torch sees no CUDA device",
        **{f"{name}: pairs/s trained": one["trained_per_second"] for name, one in ways.items()},
        **{f"{name}: pairs/s scored": one["scored_per_second"] for name, one in ways.items()},
        **{f"{name}: NDCG@10": one["ndcg_10"] for name, one in ways.items()},
        **{f"{name}: furthest score from the cpu's": spread(of, scores["cpu"]) for name, of in scores.items()},
    }
    about = {
        "date": str(date.today()),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    command = f"python benchmarks/gpu.py DIRECTORY --queries {options.queries} --tests {options.tests}"
    about |= {"cores": str(os.cpu_count()), "torch": torch.__version__}
    about |= {"command": f"{command} --epochs {options.epochs}"}
    write_json(options.out, {**about, "summary": found, "ways": ways})
    print(json.dumps(found, indent=2))


def write_world(options: argparse.Namespace) -> None:
    """Write the judgments to learn from, the test set and the catalogue."""
    world = EmojiWorld(seed_queries=options.queries, test_queries=options.tests)
    contracts.write(world.documents(0), options.directory / "documents", contracts.DOCUMENTS)
    contracts.write(pools.seed(world, pools.LETTERS), options.directory / "seed", contracts.JUDGMENTS)
    frozen = pools.frozen(world, pools.LETTERS)["pool"]
    contracts.write(frozen, options.directory / "frozen", contracts.JUDGMENTS)


def measure(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Run a way in processes of its own, and return what it measured."""
    count, cuda = WAYS[way]
    python = [sys.executable]
    if count:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    given = ["--queries", str(options.queries), "--tests", str(options.tests), "--epochs", str(options.epochs)]
    threads = max((os.cpu_count() or 1) // max(count, 1), 1)
    hidden = {} if cuda else {"CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | hidden | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    subprocess.run([*python, __file__, str(options.directory), *given, "--child", way], env=environment, check=True)
    told: dict[str, Any] = json.loads((options.directory / f"{way}.json").read_text(encoding="utf-8"))
    print(way, told, flush=True)
    return told


def child(options: argparse.Namespace) -> None:
    """Train and score as this process sees the machine; the first process of several scores."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    settings = Settings.model_validate(
        {
            "cycle": {"number": 1, "start": "2017-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"},
            "training": {"founding_epochs": options.epochs, "threads": threads},
        }
    )
    data, out = options.directory, options.directory / options.child
    figures = training.bootstrap(data / "seed", data / "documents", out, settings)
    if not processes().is_main_process:
        return
    texts = {
        row["doc_id"]: document_text(row["title"], row["body"])
        for row in contracts.read(data / "documents", contracts.DOCUMENTS).to_pylist()
    }
    test = contracts.read(data / "frozen", contracts.JUDGMENTS)
    queries, documents = test["query"].to_pylist(), [texts[one] for one in test["doc_id"].to_pylist()]
    model = relevance.load(out, settings.relevance)
    model.score(queries[:64], documents[:64])
    start = time.perf_counter()
    scores = model.score(queries, documents).expected
    seconds = time.perf_counter() - start
    np.save(data / f"{options.child}.npy", scores)
    told = {
        "trained_per_second": figures["pairs_per_second"],
        "scored_per_second": round(len(queries) / seconds, 1),
        "ndcg_10": round(ndcg_of(test, scores), 4),
        "processes": processes().num_processes,
        "device": str(processes().device),
    }
    write_json(data / f"{options.child}.json", told)


def ndcg_of(test: Any, scores: Any) -> float:
    """Return the mean NDCG@10 over the queries of ``test``."""
    import training_quality as quality_of

    judged = quality_of.Judged(
        test["query"].to_pylist(), test["doc_id"].to_pylist(), test["locale"].to_pylist(), test["grade"].to_numpy()
    )
    given = dict.fromkeys(quality_of.SYSTEMS, scores)
    return float(quality_of.measure(judged, given, judged.grades >= 0)["cosine"])


def spread(scores: Any, of: Any) -> float:
    """Return how far a score is from the other's at most, in grades."""
    return round(float(np.abs(scores - of).max()), 4)


if __name__ == "__main__":
    main()
