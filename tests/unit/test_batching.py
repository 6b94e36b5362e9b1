"""The predictor's batches across requests: bounded, in turns, in the input's order, and a pair in one of them only."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("kserve", reason="pip install 'serm[serve]'")

from serm.relevance import Scores
from serm.serving.batching import MAX_RETRY_SECONDS, Batcher, _Job
from serm.serving.protocols.request import Scored
from serm.serving.refusals import Busy, Late, Stopping
from serm.settings.serving import PredictorSettings


@dataclass(frozen=True)
class Pair:
    query: str
    document: str
    tokens: int
    cut: bool = False


class Held:
    """A model that waits until it is let go; a pair's score is its query's number, its tokens the document's length."""

    version, max_tokens, known = "held", 100, None

    def __init__(self) -> None:
        self.batches: list[list[Pair]] = []
        self.go = threading.Event()
        self.slots = 0

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        return self.score_read(self.read(queries, documents))

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[Pair]:
        return [Pair(query, one, len(one), one == "cut") for query, one in zip(queries, documents, strict=True)]

    def score_read(self, pairs: Sequence[Pair]) -> Scores:
        assert self.go.wait(60)
        self.batches.append(list(pairs))
        scores = np.array([float(pair.query) for pair in pairs])
        return Scores(scores, np.repeat(scores[:, None], 4, 1))


def _batcher(**options: Any) -> Batcher:
    return Batcher(PredictorSettings(**{"batch_tokens": 64, **options}))


def _ask(batcher: Batcher, model: Held, pairs: int, document: str = "x") -> Coroutine[Any, Any, Scored]:
    return batcher.score("m", model, [str(number) for number in range(pairs)], [document] * pairs)


async def _until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.001)


@settings(max_examples=60)
@given(
    requests=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=8),
    budget=st.integers(64, 100),
    models=st.lists(st.integers(0, 1), min_size=8, max_size=8),
)
def test_no_pair_is_lost_mixed_up_or_scored_twice(requests: list[list[int]], budget: int, models: list[int]) -> None:
    held = [Held(), Held()]
    batcher = _batcher(batch_tokens=budget)

    async def run() -> list[Scored]:
        asked = [
            batcher.score(
                "m", held[which], [f"{n}{row:02}" for row in range(len(lengths))], ["d" * one for one in lengths]
            )
            for n, (lengths, which) in enumerate(zip(requests, models, strict=False))
        ]
        tasks = [asyncio.create_task(one) for one in asked]
        await _until(lambda: len(batcher._jobs) == len(requests))
        for model in held:
            model.go.set()
        return await asyncio.gather(*tasks)

    for n, (lengths, found) in enumerate(zip(requests, asyncio.run(run()), strict=True)):
        assert found.scores.expected.tolist() == [float(f"{n}{row:02}") for row in range(len(lengths))]
        assert found.scores.distribution[:, 3].tolist() == found.scores.expected.tolist()
        assert found.tokens == sum(lengths)
    for which, model in enumerate(held):
        scored = Counter(pair.query for batch in model.batches for pair in batch)
        assert set(scored.values()) <= {1}
        wanted = sum(len(lengths) for lengths, own in zip(requests, models, strict=False) if own == which)
        assert scored.total() == wanted
        for batch in model.batches:  # within the budget, or one pair
            assert sum(pair.tokens for pair in batch) <= budget or len(batch) == 1
    assert batcher.waiting == 0


def test_an_idle_model_waits_for_nothing_and_a_busy_one_finds_a_full_batch() -> None:
    model, batcher = Held(), _batcher()

    async def run() -> None:
        tasks = [asyncio.create_task(_ask(batcher, model, 1))]
        await _until(lambda: batcher._jobs and batcher._jobs[0].taken)  # scored alone, though nothing else came
        tasks += [asyncio.create_task(_ask(batcher, model, 2)) for _ in range(5)]
        await _until(lambda: len(batcher._jobs) == 6)
        model.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert [len(batch) for batch in model.batches] == [1, 10]


def test_a_full_queue_refuses_and_is_free_again_afterwards() -> None:
    model, batcher = Held(), _batcher(max_queue_pairs=10)

    async def run() -> None:
        first = asyncio.create_task(_ask(batcher, model, 100))  # alone, it is taken whatever its size
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await _ask(batcher, model, 1)
        assert 1 <= refused.value.retry_after <= MAX_RETRY_SECONDS
        assert batcher.waiting == 100
        model.go.set()
        await first
        assert (await _ask(batcher, model, 10)).scores.expected.tolist() == list(range(10))

    asyncio.run(run())
    assert batcher.waiting == 0


def test_a_long_request_does_not_keep_a_short_one_waiting_to_its_end() -> None:
    model, batcher = Held(), _batcher()

    async def run() -> None:
        long = asyncio.create_task(_ask(batcher, model, 500, "x" * 8))
        await _until(lambda: batcher._jobs)
        short = asyncio.create_task(_ask(batcher, model, 1, "y"))
        await _until(lambda: len(batcher._jobs) == 2)
        model.go.set()
        await asyncio.gather(long, short)

    asyncio.run(run())
    assert "y" in {pair.document for batch in model.batches[:2] for pair in batch}
    assert len(model.batches) > 60


def test_requests_that_fit_a_batch_end_in_the_order_in_which_they_came_and_are_cut_once_at_most() -> None:
    model, batcher, ended = Held(), _batcher(), list[int]()

    async def asked(number: int) -> Scored:
        found = await _ask(batcher, model, 24)
        ended.append(number)
        return found

    async def run() -> list[Scored]:
        tasks = [asyncio.create_task(asked(0))]
        await _until(lambda: batcher._jobs and batcher._jobs[0].taken)
        for number in range(1, 20):
            tasks.append(asyncio.create_task(asked(number)))
            await _until(lambda: len(batcher._jobs) == len(tasks))
        model.go.set()
        return await asyncio.gather(*tasks)

    assert max(one.batches for one in asyncio.run(run())) == 2
    assert ended == sorted(ended)
    assert [len(batch) for batch in model.batches] == [24, *[64] * 7, 8]


@pytest.mark.parametrize("pairs", [(60,), (8,) * 20])
def test_short_requests_that_keep_coming_hold_no_other_one_up(pairs: tuple[int, ...]) -> None:
    """A pair that no room is left for beside them, and a request behind one of many batches."""

    async def run() -> int:
        model, batcher = Held(), _batcher()

        def wait(*tokens: int) -> _Job:
            read = [Pair("0", "", one, False) for one in tokens]
            done = asyncio.get_running_loop().create_future()
            batcher._jobs.append(_Job(model, read, np.empty(0), np.empty(0), done, sum(tokens)))
            return batcher._jobs[-1]

        wait(*[8] * 4000)
        other = wait(*pairs)
        for batches in range(100):
            for _ in range(8):
                wait(6)
            assert batcher._next()
            if not other.left:
                return batches
        return 100

    assert asyncio.run(run()) < 30


@pytest.mark.parametrize("reason", ["gone", "late"])
def test_a_request_whose_client_is_gone_or_deadline_past_is_not_scored(reason: str) -> None:
    model, batcher = Held(), _batcher()

    async def run() -> None:
        first = asyncio.create_task(_ask(batcher, model, 1, "first"))
        await _until(lambda: batcher._jobs)
        seconds = 0.02 if reason == "late" else 60
        other = asyncio.create_task(batcher.score("m", model, ["7"] * 5, ["other"] * 5, seconds))
        await _until(lambda: len(batcher._jobs) == 2)
        if reason == "gone":
            other.cancel()
        with pytest.raises(asyncio.CancelledError if reason == "gone" else Late):
            await other
        assert batcher.waiting == 1
        model.go.set()
        await first
        await _ask(batcher, model, 1, "last")

    asyncio.run(run())
    assert [[pair.document for pair in batch] for batch in model.batches] == [["first"], ["last"]]


def test_a_request_that_fails_does_not_fail_the_others_in_its_batch() -> None:
    model, batcher = Held(), _batcher()

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(_ask(batcher, model, 1, "first"))]
        await _until(lambda: batcher._jobs)
        tasks += [asyncio.create_task(batcher.score("m", model, [one], ["d"])) for one in ("5", "no number", "6")]
        await _until(lambda: len(batcher._jobs) == 4)
        model.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    _, five, failed, six = asyncio.run(run())
    assert (five.scores.expected, six.scores.expected) == (5.0, 6.0)
    assert isinstance(failed, ValueError)
    assert batcher.waiting == 0


def test_what_waits_when_the_time_to_drain_is_over_is_given_up() -> None:
    model, batcher = Held(), _batcher()

    async def run() -> None:
        asked = asyncio.create_task(_ask(batcher, model, 500))
        await _until(lambda: batcher._jobs and batcher._jobs[0].taken)
        batcher.closed = True
        model.go.set()
        with pytest.raises(Stopping):
            await asked
        with pytest.raises(Stopping):
            await _ask(batcher, model, 1)

    asyncio.run(run())
    assert len(model.batches) == 1
    assert batcher.waiting == 0


def test_the_answer_says_which_documents_were_cut() -> None:
    model, batcher = Held(), _batcher()
    model.go.set()
    found = asyncio.run(batcher.score("m", model, ["1"] * 3, ["a", "cut", "b"]))
    assert (found.cut, found.max_tokens, found.tokens) == ((1,), 100, 5)
    assert found.seconds.keys() == {"queue", "tokenise", "model", "total"}
