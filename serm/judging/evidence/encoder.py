"""Encoder evidence: how near query and document lie in a pretrained encoder's space."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from serm.judging.evidence.found import Found
from serm.judging.judge import Pairs

Kind = Literal["query", "passage"]
BACKGROUND = 48
"""Documents of a locale that a cosine is compared with."""


class TextEmbedder(Protocol):
    """What is asked of a ``serm.relevance`` encoder."""

    def embed(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """Return unit vectors [n, dim]."""
        ...


class Embeddings:
    """The vectors of texts; each distinct text is embedded once."""

    def __init__(self, encoder: TextEmbedder) -> None:
        self._encoder = encoder
        self._vectors: dict[tuple[Kind, str], NDArray[np.float32]] = {}

    def of(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """Return unit vectors [n, dim] of ``texts``."""
        missing = sorted({text for text in texts if (kind, text) not in self._vectors})
        if missing:
            vectors = self._encoder.embed(missing, kind=kind)
            self._vectors.update({(kind, text): vectors[row] for row, text in enumerate(missing)})
        return np.stack([self._vectors[kind, text] for text in texts])


class EncoderEvidence:
    """Cosine of query and document, and how it stands out among documents of the same locale.

    Comparing with a fixed sample of the locale's catalogue makes cosines of different queries and languages
    comparable, and a pair's evidence does not depend on which other pairs are judged.
    """

    name = "encoder"

    def __init__(self, embeddings: Embeddings, locales: list[str], doc_ids: list[str], texts: list[str]) -> None:
        """Take the catalogue: locale, id and text of each document."""
        self._embeddings = embeddings
        by_locale: dict[str, list[tuple[int, str, str]]] = {}
        for locale, doc_id, text in zip(locales, doc_ids, texts, strict=True):
            by_locale.setdefault(locale, []).append((zlib.crc32(doc_id.encode()), doc_id, text))
        self._background = {
            locale: [text for _, _, text in sorted(rows)[:BACKGROUND]] for locale, rows in by_locale.items()
        }

    def look_up(self, pairs: Pairs) -> Found:
        """Features: cosine, its z-score and its rank (share of the sample below it)."""
        locales = sorted(set(pairs.locales))
        samples = [text for locale in locales for text in self._background[locale]]
        documents = self._embeddings.of([*pairs.texts, *samples], "passage")[: len(pairs)]
        queries = self._embeddings.of(pairs.queries, "query")
        cosine = (queries * documents).sum(axis=1).astype(np.float64)
        stands_out, above = np.zeros(len(pairs)), np.zeros(len(pairs))
        for locale in locales:
            rows = np.flatnonzero(np.array(pairs.locales) == locale)
            others = queries[rows] @ self._embeddings.of(self._background[locale], "passage").T
            stands_out[rows], above[rows] = standing(cosine[rows], others.astype(np.float64))
        features = np.stack([cosine, stands_out, stands_out**2, above], axis=1)
        sentences = [
            f"the encoder's cosine is {c:.2f}, above {a:.0%} of a sample of the locale's documents."
            for c, a in zip(cosine, above, strict=True)
        ]
        return Found(features, sentences, np.zeros(len(pairs), dtype=bool))


def standing(
    values: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each value's z-score among its ``others`` [n, sample], and the share of them below it."""
    spread = np.maximum(others.std(axis=1), 1e-6)
    return (values - others.mean(axis=1)) / spread, (others < values[:, None]).mean(axis=1)
