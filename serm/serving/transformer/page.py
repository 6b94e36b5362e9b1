"""The page that a user gets: the documents in the order of one model's scores, or of both models' in turns.

A document that is judged for the query stands by its grade and the model's score together: both are expected grades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serm.rollout import interleaving
from serm.rollout.split import Variant
from serm.serving.transformer.predictors import Scored


@dataclass(frozen=True)
class Listed:
    """What is to be ranked for a request."""

    texts: Sequence[str | None]
    """The documents' texts, in the request's order; None: unknown, so no model scores it."""
    grades: Mapping[int, float]
    """Row -> the expected grade, 0 to 3, of a document that is judged for the query."""
    weight: float
    """Of a grade beside the model's score, 0 to 1."""
    top_n: int | None
    """How many are wanted."""

    @property
    def known(self) -> list[int]:
        """The rows that a model scores."""
        return [row for row, text in enumerate(self.texts) if text is not None]


@dataclass(frozen=True)
class Served:
    """A document of a page."""

    row: int
    """Its place in the request."""
    score: float | None
    """The expected grade, 0 to 3, by the model whose document it is; None without a text."""
    grade: float | None
    """The expected grade, 0 to 3, that it is judged to have; None where it is not judged."""
    version: str
    """The model's."""
    variant: str
    """What the log's row says: the user's group, and on an interleaved page ``interleaved:`` and whose document it is
    (champion, challenger, both)."""


def ranked(scored: Scored, listed: Listed, variant: str) -> list[Served]:
    """Return the documents from the best; those that have neither score nor grade stand behind, as they came."""
    scores: dict[int, float] = dict(zip(listed.known, scored.scores, strict=True))
    return [
        Served(row, scores.get(row), listed.grades.get(row), scored.version, variant)
        for row in _order(scores, listed)[: listed.top_n]
    ]


def interleaved(scored: Mapping[Variant, Scored], listed: Listed, key: str) -> list[Served]:
    """Return both models' rankings as one, by team draft (``serm.rollout.interleaving``); ``key`` draws it."""
    scores = {of: dict(zip(listed.known, one.scores, strict=True)) for of, one in scored.items()}
    champion, challenger = ([str(row) for row in _order(scores[of], listed)] for of in ("champion", "challenger"))
    count = len(listed.texts)
    most = count if listed.top_n is None else min(listed.top_n, count)
    page = []
    for one in interleaving.team_draft(champion, challenger, key, most):
        row, of = int(one.doc_id), one.team or "champion"
        variant = f"interleaved:{one.team or 'both'}"
        page.append(Served(row, scores[of].get(row), listed.grades.get(row), scored[of].version, variant))
    return page


def _order(scores: Mapping[int, float], listed: Listed) -> list[int]:
    best = dict(scores)
    for row, grade in listed.grades.items():
        best[row] = listed.weight * grade + (1 - listed.weight) * scores.get(row, grade)
    falling = np.argsort([-best.get(row, -np.inf) for row in range(len(listed.texts))], kind="stable")
    order: list[int] = falling.tolist()
    return order
