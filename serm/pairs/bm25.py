"""BM25, the one search by words of judges, miners and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from serm.pairs.tokens import tokens

Scores = NDArray[np.float32]


class BM25:
    """An index of n texts by their ``tokens``, so that inflected words and languages without spaces match too.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; library bm25s, its variant
    of Lucene with k1 1.5 and b 0.75.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Index ``texts`` [n]; a text without any word, such as one of signs alone, is never found."""
        self._count = len(texts)
        self._index: bm25s.BM25 | None = None
        corpus = [tokens(text) for text in texts]
        if any(corpus):
            self._index = bm25s.BM25()
            self._index.index(corpus, show_progress=False)

    def scores(self, query: str) -> Scores:
        """Return each text's score [n], 0 or more; 0 where it shares no token with ``query``."""
        if self._index is None:
            return np.zeros(self._count, np.float32)
        scores: Scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(tokens(query)))
        return scores

    def nearest(self, query: str, depth: int) -> list[int]:
        """Return the rows of at most ``depth`` texts of a score above 0, the highest first, equals in their order."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:depth]
        rows: list[int] = order[scores[order] > 0].tolist()
        return rows
