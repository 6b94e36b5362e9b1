"""Scoring off the event loop: one thread, a bounded queue before it, and requests that take turns by parts."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serm.relevance import Scorer, Scores

PART_PAIRS = 64
"""Pairs scored in one go; then the next request has its turn, so that a long one does not keep short ones waiting."""
MAX_RETRY_SECONDS = 30


class Busy(Exception):
    """The queue is full (HTTP 429)."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"{retry_after} s")
        self.retry_after = retry_after
        """Seconds after which what waits now should be done."""


class Stopping(Exception):
    """The server ends, and does not take this request or cannot finish it (HTTP 503)."""


class Scoring:
    """Scores the pairs of many requests, one part after the other: a model already spreads a batch over the cores."""

    def __init__(self, limit: int) -> None:
        """Take at most ``limit`` pairs at once; a request that finds nobody before it is taken whatever its size."""
        self.limit = limit
        self.waiting = 0
        """Pairs taken and not scored yet."""
        self.closed = False
        """Whether what waits is given up, because the time to drain is over."""
        self._seconds_a_pair = 0.01
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")

    async def score(self, model: Scorer, queries: list[str], documents: list[str]) -> Scores:
        """Score ``queries[i]`` with ``documents[i]``, in the input's order.

        Raises:
            Busy: too many pairs wait.
            Stopping: ``closed`` was set.
        """
        left = len(queries)
        if self.waiting and self.waiting + left > self.limit:
            raise Busy(self.retry_after())
        self.waiting += left
        parts = []
        try:
            for start in range(0, len(queries), PART_PAIRS):
                if self.closed:
                    raise Stopping
                part = queries[start : start + PART_PAIRS], documents[start : start + PART_PAIRS]
                scores, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, _timed, model, *part)
                parts.append(scores)
                self._seconds_a_pair += 0.1 * (seconds / len(part[0]) - self._seconds_a_pair)
                self.waiting -= len(part[0])
                left -= len(part[0])
        finally:
            self.waiting -= left
        return Scores(
            np.concatenate([part.expected for part in parts]), np.concatenate([part.distribution for part in parts])
        )

    def retry_after(self) -> int:
        """Return the seconds, 1 to ``MAX_RETRY_SECONDS``, in which what waits now should be scored."""
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(self.waiting * self._seconds_a_pair)))


def _timed(model: Scorer, queries: list[str], documents: list[str]) -> tuple[Scores, float]:
    start = time.perf_counter()
    return model.score(queries, documents), time.perf_counter() - start
