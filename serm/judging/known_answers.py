"""Pairs with known answers where nothing is judged: what LLM judges are checked with before the first judgment.

A document's own title, asked as a query, finds that document; a document that nobody was served for a query, that no
search found for it and that shares no word with it does not answer it. Both are made up, and easy: a judge that fails
them cannot be used, and one that passes them may still be wrong where it is hard. That a person's sample tells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from serm.judging.evidence.catalogue import Catalogue
from serm.judging.judge import ABSTAINED, Integers, Pairs
from serm.pairs.text import fold
from serm.pairs.tokens import words

FAR, ITSELF = 20, 20
"""So many of each are made, where the catalogue has them."""
_TRIES = 100


@dataclass(frozen=True)
class KnownAnswers:
    """k pairs and their grades, 0 or 3."""

    pairs: Pairs
    grades: Integers

    def right(self, rows: Integers, grades: Integers) -> tuple[int, float | None]:
        """Return of a judge's ``grades`` [n] of ``rows`` how many it gave, and the share on the right side of 1.5.

        The share is the mean of those of good and of bad pairs, so that one grade for all is worth a half.
        """
        said, good = grades != ABSTAINED, self.grades[rows] >= 2
        shares = [((grades >= 2) == good)[said & of].mean() for of in (good, ~good) if (said & of).any()]
        return int(said.sum()), round(float(np.mean(shares)), 4) if shares else None


def known_answers(pairs: Pairs, catalogue: Catalogue, seed: int) -> KnownAnswers:
    """Make pairs with known answers out of the ``pairs`` to grade and the ``catalogue``; the same for the same seed."""
    random = np.random.default_rng([seed, 1])
    made = [*_far(pairs, catalogue, random), *_itself(catalogue, random)]
    whole = Pairs.joined([pair for pair, _ in made])
    return KnownAnswers(whole, np.array([grade for _, grade in made], np.int64))


def _far(pairs: Pairs, catalogue: Catalogue, random: np.random.Generator) -> list[tuple[Pairs, int]]:
    asked = set(zip(pairs.queries, pairs.doc_ids, strict=True))
    queries = sorted(set(zip(pairs.queries, pairs.locales, strict=True)))
    of = {locale: [row for row, at in enumerate(catalogue.locales) if at == locale] for _, locale in queries}
    found: list[tuple[Pairs, int]] = []
    for number in random.permutation(len(queries)).tolist()[:FAR]:
        query, locale = queries[number]
        there = set(words(fold(query)))
        for row in random.choice(of[locale], min(_TRIES, len(of[locale])), replace=False).tolist():
            is_asked = (query, catalogue.doc_ids[row]) in asked
            if not is_asked and there and there.isdisjoint(words(fold(catalogue.texts[row]))):
                found.append((_pair(query, catalogue, row), 0))
                break
    return found


def _itself(catalogue: Catalogue, random: np.random.Generator) -> list[tuple[Pairs, int]]:
    titles = [fold(title) for title in catalogue.titles]
    times = Counter(titles)
    once = [row for row, title in enumerate(titles) if len(words(title)) > 1 and times[title] == 1]
    rows = random.permutation(once)[:ITSELF].astype(int).tolist()
    return [(_pair(catalogue.titles[row], catalogue, row), 3) for row in rows]


def _pair(query: str, catalogue: Catalogue, row: int) -> Pairs:
    c = catalogue
    return Pairs([query], [c.locales[row]], [c.doc_ids[row]], [c.titles[row]], [c.texts[row]], [c.keys[row]])
