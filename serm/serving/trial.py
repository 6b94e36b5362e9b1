"""A trial: a model behind the predictor that KServe runs must give the scores that it has outside of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pyarrow as pa

from serm.errors import UserError
from serm.serving.replay import Request, send

if TYPE_CHECKING:
    from serm.relevance import Scorer

NAME = "challenger"
"""The served model's name."""
BATCH_DOCUMENTS = 50
"""Documents in a request of the batch: what a page or two of results have."""


@dataclass(frozen=True)
class Trial:
    """What the server made of the batch; with an ``error`` the figures say nothing."""

    requests: int
    pairs: int
    difference: float = float("nan")
    """The largest difference of a score (0 to 3) from the model's own."""
    p95_ms: float = float("nan")
    """95 % of the requests, one after the other, took at most this."""
    error: str = ""


def batch(pool: pa.Table, requests: int, seed: int) -> list[Request]:
    """Draw a golden batch by ``seed``: ``requests`` queries, each with at most ``BATCH_DOCUMENTS`` of its documents.

    ``pool`` has the columns locale, query and text, a row a judged document.
    """
    of: dict[tuple[str, str], list[str]] = {}
    for locale, query, text in zip(*(pool[name].to_pylist() for name in ("locale", "query", "text")), strict=True):
        of.setdefault((locale, query), []).append(text)

    def draw_key(asked: tuple[str, str]) -> str:
        return hashlib.sha256("\0".join((str(seed), *asked)).encode()).hexdigest()

    drawn = sorted(of, key=draw_key)[:requests]
    return [Request("golden", asked[1], tuple(dict.fromkeys(of[asked]))[:BATCH_DOCUMENTS]) for asked in drawn]


def check(ready: Callable[[], httpx.Client], model: Scorer, requests: Sequence[Request]) -> Trial:
    """Send ``requests`` to the model ``NAME`` of a server (``server.running``), and score them with ``model`` here.

    The first request is sent once more before, untimed: a server's first answer is slow, and its users do not see it.
    A server that does not get ready, or does not answer, is told as an error.
    """
    pairs = sum(len(request.documents) for request in requests)
    try:
        client = ready()
    except UserError as error:
        return Trial(len(requests), pairs, error=str(error))
    differences, milliseconds = [], []
    for number, request in enumerate([*requests[:1], *requests]):
        answer = send(client, NAME, request)
        if answer.error:
            return Trial(len(requests), pairs, error=answer.error)
        own = model.score([request.query] * len(request.documents), request.documents).expected
        if len(answer.scores) != len(own):
            return Trial(len(requests), pairs, error=f"{len(answer.scores)} scores for {len(own)} documents.")
        differences.append(float(np.abs(np.array(answer.scores) - own).max()))
        if number:
            milliseconds.append(answer.milliseconds)
    p95 = float(np.percentile(milliseconds, 95)) if milliseconds else float("nan")
    return Trial(len(requests), pairs, max(differences, default=float("nan")), p95)
