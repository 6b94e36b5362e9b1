"""A trial: a model behind the predictor that KServe runs must give the scores that it has outside of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pyarrow as pa

from serm.serving.replay import Request, send
from serm.serving.server import NotServingError

if TYPE_CHECKING:
    from serm.relevance import Scorer

_LOG = logging.getLogger(__name__)
NAME = "challenger"
"""The served model's name."""
BATCH_DOCUMENTS = 50
"""Documents in a request of the batch: what a page or two of results have."""


@dataclass(frozen=True)
class Trial:
    """What the server made of the batch; where it was ``lost`` or ``refused``, the numbers say nothing."""

    requests: int
    pairs: int
    difference: float = float("nan")
    """The largest difference of a score (0 to 3) from the model's own."""
    p95_ms: float = float("nan")
    """95 % of the requests, one after the other, took at most this; it differs from run to run."""
    refused: str = ""
    """What it answered in the place of scores."""
    lost: str = ""
    """Why no answer came, in words that are the same in each run: it ended, was never ready, fell silent or stopped."""


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
    What a lost server said last, which differs from run to run, is logged.
    """
    pairs = sum(len(request.documents) for request in requests)
    try:
        client = ready()
    except NotServingError as error:
        _LOG.error("serm: %s", error)
        return Trial(len(requests), pairs, lost=error.what)
    differences, milliseconds = [], []
    for number, request in enumerate([*requests[:1], *requests]):
        answer = send(client, NAME, request)
        if answer.lost:
            _LOG.error("serm: the model server gave no answer: %s", answer.error)
            return Trial(len(requests), pairs, lost="The model server gave no answer.")
        if answer.error:
            return Trial(len(requests), pairs, refused=answer.error)
        own = model.score([request.query] * len(request.documents), request.documents).expected
        if len(answer.scores) != len(own):
            return Trial(len(requests), pairs, refused=f"{len(answer.scores)} scores for {len(own)} documents.")
        differences.append(float(np.abs(np.array(answer.scores) - own).max()))
        if number:
            milliseconds.append(answer.milliseconds)
    p95 = float(np.percentile(milliseconds, 95)) if milliseconds else float("nan")
    return Trial(len(requests), pairs, max(differences, default=float("nan")), p95)
