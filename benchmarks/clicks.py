"""How fast the click models are fitted and how well they explain a log, beside clax in the same minute.

The log is simulated: users of a dynamic Bayesian network (``serm.worlds.simulator.browse``) look at pages of ten
results, drawn by numpy with a seed. For each size the engine aggregates it, and PBM, UBM and DBN are fitted twice: with
the priors all but off to all pages, for the highest likelihood; and with the default priors to five pages in six, for
the likelihood of the sixth. clax (Hager et al., gradient descent in JAX) does the same on the same pages, in another
Python, which needs

    python3.11 -m venv clax
    clax/bin/pip install clax-models==0.1.1 'jax<0.8' 'flax<0.12' 'pandas<3'

    python benchmarks/clicks.py --clax-python clax/bin/python --out benchmarks/results/clicks.json

An iteration here is one of EM over the whole log, one there an epoch over the whole log. clax gets its batches as ready
slices of arrays, not from its data loader; compiling and the first epoch do not count. It runs until eight epochs have
gained less than 1e-6 (on the sixth itself, where that is held out, so that it is stopped where it is best there), which
is later than its trainer would stop by default (one, 1e-5), or for 3,000 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SEED = 41
RANKS = 10
CANDIDATES = 20
SESSIONS_A_QUERY = 50
MODELS = ("pbm", "ubm", "dbn")
HELD_OUT = 6
BATCH = 8192
LEARNING_RATE = 0.03
STEPS = 3000
MIN_GAIN, PATIENCE = 1e-6, 8


def generate(sessions: int, folder: Path) -> None:
    """Write a simulated log: ``pages.npz`` (pair and clicked, [sessions, ranks]) and ``log.parquet``."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from serm.worlds.simulator import Users, browse

    rng = np.random.default_rng(SEED)
    queries = sessions // SESSIONS_A_QUERY
    popularity = 1 / np.arange(1, queries + 1) ** 0.8
    query = rng.choice(queries, sessions, p=popularity / popularity.sum())
    grades = rng.choice(4, (queries, CANDIDATES), p=[0.5, 0.25, 0.15, 0.1])
    scores = grades + rng.normal(0, 0.8, grades.shape)
    noisy = scores[query] + rng.normal(0, 0.3, (sessions, CANDIDATES))
    document = np.argsort(-noisy, axis=1)[:, :RANKS]
    clicked = browse(np.take_along_axis(grades[query], document, axis=1), Users(), rng).clicked
    pair = (query[:, None] * CANDIDATES + document).astype(np.int32)
    np.savez(folder / "pages.npz", pair=pair, clicked=clicked, pairs=queries * CANDIDATES)
    position = np.tile(np.arange(1, RANKS + 1, dtype=np.int32), sessions)
    columns = {
        "query_id": pc.cast(pa.array(np.repeat(np.arange(sessions), RANKS)), pa.string()),
        "query": pc.binary_join_element_wise("query", pc.cast(pa.array(np.repeat(query, RANKS)), pa.string()), " "),
        "locale": pa.repeat("en", sessions * RANKS),
        "doc_id": pc.binary_join_element_wise("d", pc.cast(pa.array(pair.ravel()), pa.string()), ""),
        "position": pa.array(position),
        "clicked": pa.array(clicked.ravel()),
    }
    pq.write_table(pa.table(columns), folder / "log.parquet")


def engine_seconds(folder: Path) -> dict[str, Any]:
    """Return how long the engine takes to aggregate the log, and how many different pages it finds."""
    from serm import clicks
    from serm import engine as engines
    from serm.clicks.pages import aggregate, read_pages
    from serm.settings import EngineSettings

    with engines.connect(EngineSettings(threads=2, memory_gb=3)) as engine:
        start = time.perf_counter()
        log = engine.read_parquet(folder / "log.parquet")
        counts = engines.hold(engine, "counts", clicks.count(log))
        numbered = engines.hold(engine, "page_rows", clicks.number(log, counts))
        pages, _, _ = read_pages(aggregate(numbered), 1, RANKS)
        return {"seconds": round(time.perf_counter() - start, 2), "different_pages": len(pages.seen)}


def ours(folder: Path, name: str) -> dict[str, Any]:
    """Fit the model ``name`` here and return its figures."""
    from serm import clicks
    from serm.clicks.model import Tally
    from serm.clicks.pages import Pages
    from serm.settings import ClickSettings

    log = np.load(folder / "pages.npz")

    def pages(chosen: np.ndarray) -> Pages:
        pair = log["pair"][chosen]
        position = np.tile(np.arange(1, RANKS + 1, dtype=np.int32), len(pair))
        start = np.arange(0, pair.size + 1, RANKS)
        seen = np.ones(len(pair), dtype=np.int64)
        return Pages(pair.ravel(), position, log["clicked"][chosen].ravel(), start, seen, int(log["pairs"]), 1, RANKS)

    def figures(model: clicks.ClickModel, shown: Pages, seconds: float) -> dict[str, Any]:
        log_likelihood = float(Tally.of(model, shown).log_likelihood.sum() / shown.impressions)
        iterations = sum(len(trace) - 1 for trace in model.traces)
        return {"log_likelihood": log_likelihood, "seconds": round(seconds, 1), "iterations": iterations}

    every, sixth = np.ones(len(log["pair"]), bool), np.arange(len(log["pair"])) % HELD_OUT == 0
    model, all_pages = clicks.MODELS[name], pages(every)

    def timed(most: int) -> tuple[float, int]:
        """Return the least seconds of three fits, and their iterations."""
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            fitted = model.fit(all_pages, ClickSettings(iterations=most, tolerance=1e-300))
            seconds.append(time.perf_counter() - start)
        return min(seconds), sum(len(trace) - 1 for trace in fitted.traces)

    # What does not iterate (statistics and errors) is timed by fits of one iteration each, and taken off.
    (once, one), (often, many) = timed(1), timed(51)
    free = ClickSettings(iterations=300, tolerance=1e-7, prior_clicks=1e-3, prior_skips=1e-3)
    start = time.perf_counter()
    highest = model.fit(all_pages, free)
    free_seconds = time.perf_counter() - start
    start = time.perf_counter()
    usual = model.fit(pages(~sixth), ClickSettings())
    usual_seconds = time.perf_counter() - start
    return {
        "seconds_an_iteration": round((often - once) / (many - one), 5),
        "seconds_besides": round(once - one * (often - once) / (many - one), 2),
        "fit": figures(highest, all_pages, free_seconds),
        "held_out": figures(usual, pages(sixth), usual_seconds),
    }


def clax(folder: Path, name: str) -> dict[str, Any]:
    """Fit the model ``name`` with clax and return its figures; runs in clax's Python."""
    from clax import DynamicBayesianNetwork, PositionBasedModel, Trainer, UserBrowsingModel
    from clax.metrics import Average, MultiMetric
    from flax import nnx
    from optax import adamw

    log = np.load(folder / "pages.npz")
    pair, clicked = log["pair"] + 1, log["clicked"].astype(np.float32)  # 0 is for padding
    sixth = np.arange(len(pair)) % HELD_OUT == 0
    positions = np.tile(np.arange(1, RANKS + 1), (BATCH, 1))

    def batches(chosen: np.ndarray) -> Any:
        for start in range(0, len(chosen), BATCH):
            rows = chosen[start : start + BATCH]
            size = len(rows)
            yield {
                "query_doc_ids": pair[rows],
                "positions": positions[:size],
                "clicks": clicked[rows],
                "mask": np.ones((size, RANKS), bool),
            }

    @nnx.jit
    def log_probability(model: Any, batch: Any) -> Any:
        return model.compute_loss(batch, aggregate=False)

    def nats(model: Any, chosen: np.ndarray) -> float:
        total = sum(float(np.asarray(log_probability(model, batch), np.float64).sum()) for batch in batches(chosen))
        return -total / (len(chosen) * RANKS)

    def run(train: np.ndarray, judge: np.ndarray | None) -> tuple[float, list[float], float]:
        """Return the log-likelihood of ``judge`` at its best (or of ``train`` at the end), epochs and seconds."""
        sizes = {"positions": RANKS} if name != "dbn" else {}
        kinds = {"pbm": PositionBasedModel, "ubm": UserBrowsingModel, "dbn": DynamicBayesianNetwork}
        model = kinds[name](query_doc_pairs=int(log["pairs"]), **sizes, rngs=nnx.Rngs(SEED))
        epochs = -(-STEPS // -(-len(train) // BATCH))
        trainer = Trainer(optimizer=adamw(LEARNING_RATE, weight_decay=0.0), epochs=epochs)
        optimizer = nnx.ModelAndOptimizer(model, trainer.optimizer)
        metrics = MultiMetric({"loss": Average("loss")})
        rng, best, seconds, worse = np.random.default_rng(SEED), -np.inf, [], 0
        begin = time.perf_counter()
        while len(seconds) < epochs and worse < PATIENCE:
            order = rng.permutation(train)
            start = time.perf_counter()
            for batch in batches(order):
                trainer._train_step(model, optimizer, metrics, batch)
            found = -float(metrics.compute()["loss"])
            seconds.append(time.perf_counter() - start)
            metrics.reset()
            if judge is not None:
                found = nats(model, judge)
            worse = 0 if found > best + MIN_GAIN else worse + 1
            best = max(best, found)
        total = time.perf_counter() - begin
        return best if judge is not None else nats(model, train), seconds, total

    every = np.arange(len(pair))
    figures: dict[str, Any] = {}
    for what, train, judge in (("fit", every, None), ("held_out", every[~sixth], every[sixth])):
        found, seconds, total = run(train, judge)
        figures[what] = {"log_likelihood": found, "seconds": round(total, 1), "iterations": len(seconds)}
        if judge is None:
            figures["seconds_an_iteration"] = round(min(seconds[1:]), 4)
    return figures


def main() -> None:
    """Run all sizes and models, print a line for each, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--clax-python", type=Path, help="A Python that has clax-models; without it, only ours run.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer", nargs=2, metavar=("FOLDER", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(clax(Path(args.peer[0]), args.peer[1])))
        return
    results = []
    for sessions in args.sessions:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            generate(sessions, folder)
            line: dict[str, Any] = {"sessions": sessions, "engine": engine_seconds(folder)}
            print(sessions, json.dumps(line["engine"]), flush=True)
            for model in MODELS:
                line[model] = {"serm": ours(folder, model)}
                print(sessions, model, "serm", json.dumps(line[model]["serm"]), flush=True)
                if args.clax_python:
                    command = [args.clax_python, __file__, "--peer", folder, model]
                    told = subprocess.run(
                        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
                    )
                    line[model]["clax"] = json.loads(told.stdout.splitlines()[-1])
                    one, two = (line[model][who]["seconds_an_iteration"] for who in ("serm", "clax"))
                    line[model]["clax_over_serm"] = round(two / one, 1)
                    print(sessions, model, "clax", json.dumps(line[model]["clax"]), flush=True)
                    print(f"{sessions:,} {model}: clax takes {two / one:.1f} times as long an iteration", flush=True)
            results.append(line)
    summary = {
        "command": "python " + " ".join(sys.argv),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": SEED,
        "log": "simulated (serm.worlds.simulator.browse), pages of ten; log_likelihood in nats an impression",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "clax": {
            "version": "0.1.1",
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "optimizer": "adamw",
            "steps": STEPS,
        },
        "versions": {name: version(name) for name in ("duckdb", "ibis-framework", "numpy")},
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
