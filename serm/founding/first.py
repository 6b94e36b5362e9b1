"""The first champion beside what needs no training, on the frozen test queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts, relevance
from serm import engine as engines
from serm.evaluation.measures import ndcg
from serm.pairs.bm25 import BM25
from serm.pairs.documents import join
from serm.pairs.test_sets import POOL, datasets
from serm.relevance.interface import document_text, unique
from serm.settings import Settings

MOST_TOKENS, ON_A_PROCESSOR = 512, 64
"""The longest text that a model reads, and the longest that is chosen for it where there is no GPU."""
CHARACTERS_A_TOKEN = 4.0
"""In texts of alphabets; an ideographic text has about one a token, and is cut the sooner."""


def max_tokens(characters: int, *, gpu: bool) -> int:
    """Return how many tokens of a document to read so that most (95 % have at most ``characters``) are read whole.

    A multiple of 16, between 32 and what the machine bears: time grows with the length, and more than that.
    """
    wanted = -(-int(characters / CHARACTERS_A_TOKEN + 2) // 16) * 16
    return int(np.clip(wanted, 32, MOST_TOKENS if gpu else ON_A_PROCESSOR))


def compare(champion: Path, tests: Path, documents: Path, settings: Settings) -> dict[str, float | int]:
    """Return NDCG@10 on the frozen pool by the champion, by its encoder's cosine, by BM25, and of a random order.

    BM25 knows no document but those judged; a team's own BM25 over its whole catalogue weighs words a little otherwise.
    """
    path = datasets(tests)["frozen", POOL]
    with engines.connect(settings.engine) as engine:
        judged = join(engine, contracts.read(path, contracts.JUDGMENTS), path, documents, ("title", "body")).pairs
    queries = judged["query"].to_pylist()
    texts = list(map(document_text, judged["title"].to_pylist(), judged["body"].to_pylist()))
    asked = pc.binary_join_element_wise(judged["locale"], judged["query"], "\x1f")
    number = np.unique(np.array(asked.to_pylist()), return_inverse=True)[1].astype(np.int64)
    grades = judged["grade"].to_numpy().astype(np.int64)
    model = relevance.load(champion)
    cosine = (model.encoder.embed(queries, "query") * model.encoder.embed(texts, "passage")).sum(1).astype(np.float64)
    ways = {
        "champion": model.score(queries, texts).expected,
        "cosine": cosine,
        "BM25": _bm25(queries, texts),
        "random": np.zeros(len(texts)),
    }
    rankable = _rankable(number, grades)
    number = np.unique(number[rankable], return_inverse=True)[1].astype(np.int64)
    means = {
        name: float(ndcg(number, grades[rankable], scores[rankable], [10], settings.evaluation.seed).mean())
        for name, scores in ways.items()
        if rankable.any()
    }
    return {"queries": len(np.unique(number))} | {name: round(value, 4) for name, value in means.items()}


def _bm25(queries: list[str], texts: list[str]) -> NDArray[np.float64]:
    distinct, rows = unique(texts)
    index = BM25(distinct)
    scores = {query: index.scores(query) for query in set(queries)}
    return np.array([scores[query][row] for query, row in zip(queries, rows, strict=True)], np.float64)


def _rankable(number: NDArray[np.int64], grades: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which rows [n] are of queries with two grades: others cannot be ranked wrongly."""
    table = pa.table({"query": number, "grade": grades}).group_by("query", use_threads=False)
    spread = table.aggregate([("grade", "min"), ("grade", "max")]).sort_by("query")
    rows: NDArray[np.bool_] = np.asarray(pc.less(spread["grade_min"], spread["grade_max"]))[number]
    return rows
