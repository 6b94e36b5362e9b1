"""The page that a user gets: the documents in the order of one model's scores, or of both models' in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serm.rollout import interleaving
from serm.rollout.split import Variant
from serm.serving.transformer.predictors import Scored


@dataclass(frozen=True)
class Served:
    """A document of a page."""

    row: int
    """Its place in the request."""
    score: float | None
    """The expected grade, 0 to 3, by the model whose document it is; None without a text."""
    version: str
    """That model's."""
    variant: str
    """What the log's row says: the user's group, and on an interleaved page ``interleaved:`` and whose document it is
    (champion, challenger, both)."""


def ranked(scored: Scored, known: Sequence[int], count: int, variant: str, top_n: int | None) -> list[Served]:
    """Return ``count`` documents by falling scores of the ``known`` ones; the others stand behind, as they came."""
    scores: dict[int, float] = dict(zip(known, scored.scores, strict=True))
    return [Served(row, scores.get(row), scored.version, variant) for row in _order(scores, count)[:top_n]]


def interleaved(
    scored: Mapping[Variant, Scored], known: Sequence[int], count: int, key: str, top_n: int | None
) -> list[Served]:
    """Return both models' rankings as one, by team draft (``serm.rollout.interleaving``); ``key`` draws it."""
    scores = {of: dict(zip(known, one.scores, strict=True)) for of, one in scored.items()}
    champion, challenger = ([str(row) for row in _order(scores[of], count)] for of in ("champion", "challenger"))
    shown = interleaving.team_draft(champion, challenger, key, count if top_n is None else min(top_n, count))
    page = []
    for one in shown:
        row, of = int(one.doc_id), one.team or "champion"
        variant = f"interleaved:{one.team or 'both'}"
        page.append(Served(row, scores[of].get(row), scored[of].version, variant))
    return page


def _order(scores: Mapping[int, float], count: int) -> list[int]:
    falling = np.argsort([-scores.get(row, -np.inf) for row in range(count)], kind="stable")
    order: list[int] = falling.tolist()
    return order
