"""Scoring off the event loop: pairs of many requests in one go, up to a budget of tokens, and nothing waits when idle.

A batch is whatever waits at the moment the model is free, so an idle model never waits for more, and a busy one finds
fuller batches. The first in line gives its share of the budget; what is no longer than its share is done at once; the
room that is left is for the others in the order in which they came, so that few are cut (a query is computed again in
each batch that it has a part in). The first goes behind the others where it is not done. Tokenising runs beside the
scoring, in threads of its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from serm.contracts import Grade
from serm.relevance import Scores
from serm.relevance.interface import ReadPair, Servable
from serm.serving import metrics
from serm.serving.protocols.request import Scored
from serm.serving.refusals import Busy, Late, Stopping
from serm.settings.serving import PredictorSettings

MAX_RETRY_SECONDS = 30
TOKENISING_THREADS = 2
"""So that a long request does not keep short ones from being read."""
_T = TypeVar("_T")


@dataclass(eq=False)
class _Job:
    """A request whose pairs wait."""

    model: Servable
    pairs: Sequence[ReadPair]
    expected: NDArray[np.float64]
    distribution: NDArray[np.float64]
    done: asyncio.Future[None]
    left: int
    """The tokens of the pairs that are not taken."""
    taken: int = 0
    scored: int = 0
    model_seconds: float = 0.0
    batches: int = 0
    began: float = 0.0
    """When its first batch did, by ``perf_counter``; its last one ``ended`` then."""
    ended: float = 0.0

    def take(self, room: int, even_if_longer: bool) -> tuple[slice, int]:
        """Take the next pairs that fit into ``room`` tokens; return them, and the tokens they have."""
        start, tokens = self.taken, 0
        while self.taken < len(self.pairs):
            more = self.pairs[self.taken].tokens
            if tokens + more > room and not (even_if_longer and self.taken == start):
                break
            tokens += more
            self.taken += 1
        self.left -= tokens
        return slice(start, self.taken), tokens


@dataclass
class _Batch:
    """What is scored in one go: of each job a run of its pairs."""

    model: Servable
    parts: list[tuple[_Job, slice]] = field(default_factory=list)
    tokens: int = 0

    def pairs(self) -> list[ReadPair]:
        return [pair for job, part in self.parts for pair in job.pairs[part]]


class Batcher:
    """Scores requests of all protocols, one batch after the other: a model already spreads a batch over the cores."""

    def __init__(self, settings: PredictorSettings) -> None:
        self.settings = settings
        self.waiting = 0
        """Pairs taken and not scored yet."""
        self.closed = False
        """Whether what waits is given up, because the time to drain is over."""
        self._jobs: list[_Job] = []
        self._worker: asyncio.Task[None] | None = None
        self._seconds_a_pair = 0.01
        self._tokenising = ThreadPoolExecutor(TOKENISING_THREADS, thread_name_prefix="tokenise")
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="score")

    async def score(
        self, name: str, model: Servable, queries: Sequence[str], documents: Sequence[str], seconds: float = math.inf
    ) -> Scored:
        """Score ``queries[i]`` with ``documents[i]``, in the input's order, with ``model``, which is called ``name``.

        A request that finds nobody before it is taken whatever its size. Cancelling drops what is not being scored.

        Raises:
            Busy: too many pairs wait.
            Late: it took longer than ``seconds``, or than ``deadline_seconds``.
            Stopping: ``closed`` was set.
        """
        if self.closed:
            raise Stopping
        if self.waiting and self.waiting + len(queries) > self.settings.max_queue_pairs:
            metrics.DROPPED.labels(name, "busy").inc()
            raise Busy(self.retry_after())
        self.waiting += len(queries)
        start = time.perf_counter()
        job = None
        try:
            async with asyncio.timeout(min(seconds, self.settings.deadline_seconds)):
                pairs, read_from, read_to = await self._off_loop(self._tokenising, model.read, queries, documents)
                count = len(queries)
                done = asyncio.get_running_loop().create_future()
                tokens = sum(pair.tokens for pair in pairs)
                job = _Job(model, pairs, np.empty(count), np.empty((count, len(Grade))), done, tokens)
                self._jobs.append(job)
                self._work()
                await job.done
        except TimeoutError:
            metrics.DROPPED.labels(name, "late").inc()
            raise Late from None
        except asyncio.CancelledError:
            metrics.DROPPED.labels(name, "gone").inc()
            raise
        finally:
            if job in self._jobs:
                self._jobs.remove(job)
            self.waiting -= len(queries) - (job.scored if job else 0)
        total = time.perf_counter() - start
        stages = {"tokenise": read_to - read_from, "model": job.model_seconds, "total": total}
        stages["queue"] = max(0.0, total - stages["tokenise"] - job.model_seconds)
        metrics.requested(name, stages)
        return Scored(
            Scores(job.expected, job.distribution),
            tokens,
            tuple(row for row, pair in enumerate(pairs) if pair.cut),
            model.max_tokens,
            stages,
            job.batches,
            _since_1970(tokenise=(read_from, read_to), queue=(read_to, job.began), model=(job.began, job.ended)),
        )

    async def prepare(self, model: Servable, documents: Sequence[str]) -> None:
        """Let ``model`` compute what documents are on their own, between two batches."""
        await self._off_loop(self._scoring, model.prepare, documents)

    def retry_after(self) -> int:
        """Return the seconds, 1 to ``MAX_RETRY_SECONDS``, in which what waits now should be scored."""
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(self.waiting * self._seconds_a_pair)))

    def _work(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._until_nothing_waits())

    async def _until_nothing_waits(self) -> None:
        while batch := self._next():
            await self._run(batch)

    def _next(self) -> _Batch | None:
        """Take the next batch's pairs, of jobs for the model of the first one."""
        self._jobs = [job for job in self._jobs if not job.done.done() and job.taken < len(job.pairs)]
        if self.closed:
            for job in self._jobs:
                _fail(job, Stopping())
            self._jobs = []
        if not self._jobs:
            return None
        first, budget = self._jobs[0], self.settings.batch_tokens
        batch = _Batch(first.model)
        jobs = [job for job in self._jobs if job.model is first.model]
        share = budget // len(jobs)
        # The first has its share before the short ones, however many of them come; the rest of it after them.
        turns = [(first, share), *((job, budget) for job in sorted(jobs, key=lambda job: job.left > share))]
        for job, most in turns:
            part, tokens = job.take(min(most, budget - batch.tokens), even_if_longer=not batch.parts)
            if part.stop > part.start:
                batch.parts.append((job, part))
                batch.tokens += tokens
            elif job.taken < len(job.pairs):
                break
        if first.taken < len(first.pairs):
            self._jobs.append(self._jobs.pop(0))
        return batch

    async def _run(self, batch: _Batch) -> None:
        """Score a batch; where that fails, each job's part alone, so that one request does not fail the others."""
        slots = batch.model.slots
        try:
            pairs = batch.pairs()
            scores, began, ended = await self._off_loop(self._scoring, batch.model.score_read, pairs)
            if len(scores.expected) != len(pairs):
                raise RuntimeError(f"{len(scores.expected)} scores for {len(pairs)} pairs")
        except Exception as error:
            jobs = {id(job): job for job, _ in batch.parts}
            if len(jobs) == 1:
                _fail(batch.parts[0][0], error)
                return
            for one in jobs.values():
                await self._run(_Batch(batch.model, [(job, part) for job, part in batch.parts if job is one]))
            return
        metrics.batched(len({id(job) for job, _ in batch.parts}), batch.tokens, batch.model.slots - slots)
        self._seconds_a_pair += 0.1 * ((ended - began) / len(scores.expected) - self._seconds_a_pair)
        row = 0
        for job, part in batch.parts:
            rows = slice(row, row + part.stop - part.start)
            job.expected[part], job.distribution[part] = scores.expected[rows], scores.distribution[rows]
            row = rows.stop
        for job in {id(job): job for job, _ in batch.parts}.values():
            job.model_seconds += ended - began
            job.began, job.ended = job.began if job.batches else began, ended
            job.batches += 1
        for job, part in batch.parts:
            if not job.done.done():
                self.waiting -= part.stop - part.start
                job.scored += part.stop - part.start
                if job.scored == len(job.pairs):
                    job.done.set_result(None)

    async def _off_loop(self, pool: ThreadPoolExecutor, call: Callable[..., _T], *args: Any) -> tuple[_T, float, float]:
        """Return what the call does, and by ``perf_counter`` when it began and ended."""
        return await asyncio.get_running_loop().run_in_executor(pool, _timed, call, *args)


def _timed(call: Callable[..., _T], *args: Any) -> tuple[_T, float, float]:
    start = time.perf_counter()
    return call(*args), start, time.perf_counter()


def _since_1970(**spans: tuple[float, float]) -> dict[str, tuple[int, int]]:
    """Return times by ``perf_counter`` as nanoseconds since 1970."""
    zero = time.time() - time.perf_counter()
    return {name: (int(1e9 * (zero + began)), int(1e9 * (zero + ended))) for name, (began, ended) in spans.items()}


def _fail(job: _Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
