"""The predictor's queue: bounded, in turns, in the input's order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

pytest.importorskip("kserve", reason="pip install 'serm[serve]'")

from serm.relevance import Scores
from serm.serving.scoring import MAX_RETRY_SECONDS, PART_PAIRS, Busy, Scoring, Stopping


class Held:
    """A scorer that waits until it is let go; a pair's score is its query's number."""

    version = "held"

    def __init__(self) -> None:
        self.parts: list[list[str]] = []
        self.go = threading.Event()

    def score(self, queries: list[str], documents: list[str]) -> Scores:
        assert self.go.wait(60)
        self.parts.append(documents)
        return Scores(np.array([float(query) for query in queries]), np.zeros((len(queries), 4)))


def _ask(scoring: Scoring, model: Held, pairs: int, name: str = "") -> Coroutine[Any, Any, Scores]:
    return scoring.score(model, [str(number) for number in range(pairs)], [name] * pairs)


def test_many_pairs_come_back_in_their_order() -> None:
    model, scoring = Held(), Scoring(10)
    model.go.set()
    found = asyncio.run(_ask(scoring, model, 3 * PART_PAIRS + 1))
    assert found.expected.tolist() == list(range(3 * PART_PAIRS + 1))
    assert found.distribution.shape == (3 * PART_PAIRS + 1, 4)
    assert [len(part) for part in model.parts] == [PART_PAIRS] * 3 + [1]
    assert scoring.waiting == 0


def test_a_full_queue_refuses_and_is_free_again_afterwards() -> None:
    model, scoring = Held(), Scoring(10)

    async def run() -> None:
        first = asyncio.create_task(_ask(scoring, model, 100))  # alone, it is taken whatever its size
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await _ask(scoring, model, 1)
        assert 1 <= refused.value.retry_after <= MAX_RETRY_SECONDS
        assert scoring.waiting == 100
        model.go.set()
        await first
        assert (await _ask(scoring, model, 10)).expected.tolist() == list(range(10))

    asyncio.run(run())
    assert scoring.waiting == 0


def test_a_long_request_does_not_keep_a_short_one_waiting_to_its_end() -> None:
    model, scoring = Held(), Scoring(10_000)

    async def run() -> None:
        both = [_ask(scoring, model, 5 * PART_PAIRS, "long"), _ask(scoring, model, 1, "short")]
        tasks = [asyncio.create_task(one) for one in both]
        await asyncio.sleep(0)
        model.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert [part[0] for part in model.parts] == ["long", "short", "long", "long", "long", "long"]


def test_what_waits_when_the_time_to_drain_is_over_is_given_up() -> None:
    model, scoring = Held(), Scoring(10_000)

    async def run() -> None:
        asked = asyncio.create_task(_ask(scoring, model, 5 * PART_PAIRS))
        await asyncio.sleep(0)
        scoring.closed = True
        model.go.set()
        with pytest.raises(Stopping):
            await asked

    asyncio.run(run())
    assert len(model.parts) == 1
    assert scoring.waiting == 0


def test_a_model_that_fails_leaves_no_pairs_behind() -> None:
    model, scoring = Held(), Scoring(10)
    model.go.set()
    with pytest.raises(ValueError, match="could not convert"):
        asyncio.run(scoring.score(model, ["no number"], [""]))
    assert scoring.waiting == 0
