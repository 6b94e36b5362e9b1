"""Outside evidence: what a source beyond the catalogue says about a document, compared across languages."""

from __future__ import annotations

import zlib

import numpy as np

from serm.judging.evidence.encoder import Embeddings, standing
from serm.judging.evidence.found import Found
from serm.judging.judge import Pairs
from serm.pairs.text import fold

BACKGROUND = 64
"""Keys of the knowledge that a cosine is compared with."""


class OutsideEvidence:
    """Cosine of the query with each text that the knowledge holds about a document; the best and the mean."""

    name = "outside knowledge"

    def __init__(self, embeddings: Embeddings, keys: list[str], texts: list[str]) -> None:
        """Take the knowledge: each text and the key of what it speaks about."""
        self._embeddings = embeddings
        self._texts: dict[str, list[str]] = {}
        for key, text in sorted(set(zip(keys, texts, strict=True))):
            self._texts.setdefault(key, []).append(text)
        self._background = sorted(self._texts, key=lambda key: (zlib.crc32(key.encode()), key))[:BACKGROUND]

    def look_up(self, pairs: Pairs) -> Found:
        """Features: best and mean cosine, z-score and rank of the best, an exact match. No text: abstain."""
        abstains = np.array([key not in self._texts for key in pairs.keys], dtype=bool)
        keys = sorted({key for key in pairs.keys if key in self._texts} | set(self._background))
        if not keys:
            return Found(np.zeros((len(pairs), 6)), ["nothing is known about the document."] * len(pairs), abstains)
        texts = [text for key in keys for text in self._texts[key]]
        sizes = np.array([len(self._texts[key]) for key in keys])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        queries, asked = np.unique(pairs.queries, return_inverse=True)
        vectors = self._embeddings.of([*queries.tolist(), *texts], "query")
        cosines = vectors[: len(queries)] @ vectors[len(queries) :].T
        best = np.maximum.reduceat(cosines, starts, axis=1).astype(np.float64)
        mean = (np.add.reduceat(cosines, starts, axis=1) / sizes).astype(np.float64)
        place = {key: column for column, key in enumerate(keys)}
        columns = np.array([place.get(key or "", 0) for key in pairs.keys])
        value = best[asked, columns]
        background = best[:, [place[key] for key in self._background]]
        stands_out, above = standing(value, background[asked])
        nearest = [
            texts[starts[c] + int(cosines[q, starts[c] : starts[c] + sizes[c]].argmax())]
            for q, c in zip(asked, columns, strict=True)
        ]
        exact = np.array([fold(query) == fold(text) for query, text in zip(pairs.queries, nearest, strict=True)])
        features = np.stack([value, mean[asked, columns], stands_out, stands_out**2, above, exact], axis=1)
        sentences = [
            "outside knowledge says nothing about the document."
            if nothing
            else f"outside knowledge says '{text}', cosine {cosine:.2f}, above {share:.0%} of other subjects."
            for nothing, text, cosine, share in zip(abstains, nearest, value, above, strict=True)
        ]
        return Found(features, sentences, abstains)
