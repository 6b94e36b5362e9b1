"""Requests of the window's users are sent as many at once as the settings say, and answers keep their order."""

from __future__ import annotations

import json
from threading import Barrier, Lock

import httpx
import pytest

from serm.serving.replay import Request, replay

REQUESTS = [Request("u", "cat", ("cat",) * count) for count in (1, 2, 3, 4)]


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_as_many_requests_as_the_setting_says_are_in_flight(concurrency: int) -> None:
    together, lock, flying, most = Barrier(concurrency, timeout=30), Lock(), set(), []

    def answer(request: httpx.Request) -> httpx.Response:
        with lock:
            flying.add(id(request))
            most.append(len(flying))
        together.wait()
        with lock:
            flying.discard(id(request))
        scores = [{"score": float(n)} for n, _ in enumerate(json.loads(request.content)["instances"])]
        return httpx.Response(200, json={"predictions": scores})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://server") as client:
        answers = replay(client, REQUESTS, concurrency)
    assert max(most) == concurrency
    for given in answers.values():
        assert [len(of.scores) for of in given] == [1, 2, 3, 4]
