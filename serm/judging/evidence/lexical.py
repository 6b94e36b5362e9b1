"""Lexical evidence: the words and letters that query and title share, weighed by BM25 over the catalogue."""

from __future__ import annotations

from collections import Counter

import numpy as np

from serm.judging.evidence.found import Found
from serm.judging.judge import Pairs
from serm.pairs.bm25 import BM25, Scores
from serm.pairs.text import fold
from serm.pairs.tokens import letters, words


class LexicalEvidence:
    """BM25 within a locale's catalogue, and plain overlap."""

    name = "lexical"

    def __init__(self, locales: list[str], titles: list[str]) -> None:
        """Index the catalogue: the locale and the title of each document."""
        self._catalogues = {
            locale: _Catalogue([t for of, t in zip(locales, titles, strict=True) if of == locale])
            for locale in sorted(set(locales))
        }

    def look_up(self, pairs: Pairs) -> Found:
        """Features: BM25 (relative and log), reciprocal rank, word and letter overlap, containment, equality."""
        rows = [
            self._catalogues[locale].match(query, title)
            for locale, query, title in zip(pairs.locales, pairs.queries, pairs.titles, strict=True)
        ]
        features = np.array([features for features, _ in rows], dtype=np.float64).reshape(len(pairs), -1)
        return Found(features, [sentence for _, sentence in rows], np.zeros(len(pairs), dtype=bool))


class _Catalogue:
    """The titles of one locale, indexed."""

    def __init__(self, titles: list[str]) -> None:
        self._index = BM25(titles)
        self._row = {title: row for row, title in enumerate(titles)}
        self._size = len(titles)
        self._scores: dict[str, Scores] = {}

    def match(self, query: str, title: str) -> tuple[list[float], str]:
        if query not in self._scores:
            self._scores[query] = self._index.scores(query)
        scores = self._scores[query]
        score = float(scores[self._row[title]])
        best = float(scores.max())
        rank = 1 + int((scores > score).sum()) if score > 0 else self._size
        asked, name = fold(query), fold(title)
        asked_words, name_words = words(asked), words(name)
        shared = [word for word in asked_words if word in name_words]
        asked_letters, name_letters = Counter(letters(asked)), Counter(letters(name))
        letter_share = (asked_letters & name_letters).total() / max(asked_letters.total(), 1)
        features = [
            score / best if best > 0 else 0.0,
            float(np.log1p(score)),
            1 / rank if score > 0 else 0.0,
            len(shared) / max(len(asked_words), 1),
            letter_share,
            float(asked in name),
            float(asked == name),
            len(asked) / max(len(name), len(asked), 1) if asked in name else 0.0,
        ]
        if shared:
            said = f"the name shares '{' '.join(shared)}' with the query"
        elif asked in name:
            said = f"the name contains '{asked}'"
        elif letter_share > 0:
            said = f"the name shares no word and {letter_share:.0%} of the letters with the query"
        else:
            return features, "the name shares nothing with the query."
        return features, f"{said}; BM25 {score:.1f}, rank {rank:,} of {self._size:,}."
