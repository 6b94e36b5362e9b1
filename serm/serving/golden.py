"""The golden batch: a model behind the predictor that KServe runs must give the scores that it has outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np

from serm.errors import UserError
from serm.serving.replay import Request, send

if TYPE_CHECKING:
    from serm.relevance import Scorer

NAME = "challenger"
"""The served model's name."""


@dataclass(frozen=True)
class Golden:
    """What the server made of the batch; with an ``error`` the figures say nothing."""

    requests: int
    pairs: int
    difference: float = float("nan")
    """The largest difference of a score (0 to 3) from the model's own."""
    p95_ms: float = float("nan")
    """95 % of the requests, one after the other, took at most this."""
    error: str = ""


def check(ready: Callable[[], httpx.Client], model: Scorer, requests: Sequence[Request]) -> Golden:
    """Send ``requests`` to the model ``NAME`` of a server (``server.running``), and score them with ``model`` here.

    The first request is sent once more before, untimed: a server's first answer is slow, and its users do not see it.
    A server that does not get ready, or does not answer, is told as an error.
    """
    pairs = sum(len(request.documents) for request in requests)
    try:
        client = ready()
    except UserError as error:
        return Golden(len(requests), pairs, error=str(error))
    differences, milliseconds = [], []
    for number, request in enumerate([*requests[:1], *requests]):
        answer = send(client, NAME, request)
        if answer.error:
            return Golden(len(requests), pairs, error=answer.error)
        own = model.score([request.query] * len(request.documents), request.documents).expected
        if len(answer.scores) != len(own):
            return Golden(len(requests), pairs, error=f"{len(answer.scores)} scores for {len(own)} documents.")
        differences.append(float(np.abs(np.array(answer.scores) - own).max()))
        if number:
            milliseconds.append(answer.milliseconds)
    p95 = float(np.percentile(milliseconds, 95)) if milliseconds else float("nan")
    return Golden(len(requests), pairs, max(differences, default=float("nan")), p95)
