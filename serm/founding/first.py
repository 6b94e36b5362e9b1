"""The first champion beside what needs no training, on the frozen test queries."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts, relevance
from serm import engine as engines
from serm.evaluation.compare import numbered
from serm.evaluation.measures import ndcg
from serm.founding.lengths import cosine
from serm.pairs.bm25 import BM25
from serm.pairs.documents import join
from serm.pairs.test_sets import POOL, datasets
from serm.relevance.interface import document_text, unique
from serm.settings import Settings
from serm.settings.training import TrainingSettings

PROCESSOR_LAYERS = 2
"""Layers that are trained where there is no GPU: half of the default's time in every step that trains or scores."""
QUERY_TOKENS = 10
SAMPLE = 64
MANY = 500
"""Seed pairs from which on it is measured how long they take; fewer take less than to find that out."""
WORK = 4_000_000
"""Tokens, times the layers that are trained, that the first champion goes through at most where there is no GPU: about
eight minutes on two idle cores with avx512_bf16, several times that beside other work."""
CYCLE_WORK = 3 * WORK
"""The same of a later cycle's challenger, which nobody waits for; ``self-training`` takes as long again."""


def passes(pairs: int, tokens: int, most: int, work: int) -> int:
    """Return how many passes over ``pairs`` a processor can make within ``work``: 1 to ``most``."""
    return int(np.clip(work // max(1, pairs * _a_pair(tokens)), 1, most))


def on_a_processor(usual: TrainingSettings, seed_pairs: int, tokens: int) -> dict[str, int]:
    """Return what of the section ``training`` is less than usual where there is no GPU: what ends within minutes.

    A cycle's passes are fewer first, its pairs only where one pass over as many as usual is too long: all that was
    shown, learnt once, brings as much as a part of it learnt often (docs/does-it-evolve.md).

    Args:
        usual: the settings where nothing is in the way.
        seed_pairs: what the first champion learns.
        tokens: that are read of a document.
    """
    most = min(usual.max_pairs, CYCLE_WORK // _a_pair(tokens))
    wanted = {
        "founding_epochs": passes(min(seed_pairs, most), tokens, usual.founding_epochs, WORK),
        "epochs": passes(most, tokens, usual.epochs, CYCLE_WORK),
        "max_pairs": most,
    }
    return {name: value for name, value in wanted.items() if value < getattr(usual, name)}


def _a_pair(tokens: int) -> int:
    return (tokens + QUERY_TOKENS) * PROCESSOR_LAYERS


def minutes(judgments: Path, documents: Path, settings: Settings) -> float:
    """Return about how long the first champion will take, by the time that the first ``SAMPLE`` texts are encoded in.

    Each document goes once through all layers, each pair ``founding_epochs`` times there and back (three times the
    work) through those that are trained.
    """
    from serm.training.fit import reproducible

    seed = contracts.read(judgments, contracts.JUDGMENTS)
    pairs = min(seed.num_rows, settings.training.max_pairs)
    with engines.connect(settings.engine) as engine:
        sample = join(engine, seed.slice(0, SAMPLE), Path("the seed"), documents, ("title", "body")).pairs
    texts = list(map(document_text, sample["title"].to_pylist(), sample["body"].to_pylist()))
    options = settings.relevance.model_copy(update={"cache_mb": 0})
    encoder = relevance.load_encoder(options.encoder, options)
    with reproducible(settings.training):
        encoder.embed(texts[:4], "passage")  # what comes first is slower
        begun = time.perf_counter()
        encoder.embed(texts, "passage")
        a_text = (time.perf_counter() - begun) / max(1, len(set(texts)))
    trained = settings.relevance.layers / len(encoder.body.encoder.layer)
    whole = pc.count_distinct(seed["doc_id"]).as_py() + 3 * settings.training.founding_epochs * trained * pairs
    return float(a_text * whole / 60)


def compare(champion: Path, tests: Path, documents: Path, settings: Settings) -> dict[str, float | int]:
    """Return NDCG@10 on the frozen pool by the champion, by its encoder's cosine, by BM25, and of a random order.

    BM25 knows no document but those judged; a team's own BM25 over its whole catalogue weighs words a little otherwise.
    """
    path = datasets(tests)["frozen", POOL]
    with engines.connect(settings.engine) as engine:
        judged = join(engine, contracts.read(path, contracts.JUDGMENTS), path, documents, ("title", "body")).pairs
    ranked = numbered(judged)
    if not ranked.queries.num_rows:
        return {"queries": 0}
    queries = ranked.rows["query"].to_pylist()
    texts = list(map(document_text, ranked.rows["title"].to_pylist(), ranked.rows["body"].to_pylist()))
    model = relevance.load(champion)
    ways = {
        "champion": model.score(queries, texts).expected,
        "cosine": cosine(model.encoder, queries, texts),
        "BM25": _bm25(queries, texts),
        "random": np.zeros(len(texts)),
    }
    found = {
        name: ndcg(ranked.number, ranked.grade, scores, [10], settings.evaluation.seed).mean()
        for name, scores in ways.items()
    }
    return {"queries": ranked.queries.num_rows} | {name: round(float(value), 4) for name, value in found.items()}


def _bm25(queries: list[str], texts: list[str]) -> NDArray[np.float64]:
    distinct, rows = unique(texts)
    index = BM25(distinct)
    scores = {query: index.scores(query) for query in set(queries)}
    return np.array([scores[query][row] for query, row in zip(queries, rows, strict=True)], np.float64)
