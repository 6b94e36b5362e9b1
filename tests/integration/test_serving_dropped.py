"""What nobody waits for any more is not scored, behind the transformer neither; what was accepted is, at any load."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_models
from serving_here import answering
from transforming import transforming

from serm import relevance
from serm.serving import connections, metrics, predictor
from serm.serving.application import Application
from serm.settings.serving import PredictorSettings

V1 = "/v1/models/champion:predict"


class Gate:
    """Holds a model's batches until it is opened, and counts the pairs that were scored."""

    def __init__(self, application: Application) -> None:
        self.opened, self.scored = threading.Event(), 0
        model: Any = application.models["champion"].model
        score = model.score_read

        def held(pairs: Sequence[Any]) -> Any:
            assert self.opened.wait(60)
            self.scored += len(pairs)
            return score(pairs)

        model.score_read = held


@contextmanager
def _held(champion: Path, queue: int = 1000) -> Iterator[tuple[httpx.Client, Application, Gate]]:
    application = predictor.application({"champion": champion}, PredictorSettings(max_queue_pairs=queue))
    gate = Gate(application)
    with answering(application) as client:
        try:
            yield client, application, gate
        finally:
            gate.opened.set()


def _until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.005)


def _body(*documents: str) -> dict[str, Any]:
    return {"instances": [{"query": "cat", "document": document} for document in documents]}


def test_a_load_past_capacity_loses_no_accepted_request_and_mixes_none_up(champion: Path) -> None:
    words = tiny_models.WORDS[3:]
    texts = [[f"{words[n % 6]} {words[n // 6]}", words[n % 5], words[n % 4]] for n in range(30)]
    expected = relevance.load_scorer(champion)
    with _held(champion, queue=40) as (client, _, gate), ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(client.post, V1, json=_body(*some)) for some in texts]
        _until(lambda: sum(one.done() for one in asked) == 17)  # 13 requests of 3 pairs are 39
        gate.opened.set()
        answers = [one.result(60) for one in asked]
        assert client.post(V1, json=_body("cat")).status_code == 200  # its place is free again
    assert sorted(one.status_code for one in answers) == [200] * 13 + [429] * 17
    for some, answer in zip(texts, answers, strict=True):
        if answer.status_code == 200:
            scores = [one["score"] for one in answer.json()["predictions"]]
            assert scores == pytest.approx(expected.score(["cat"] * 3, some).expected, abs=1e-3)


def test_who_leaves_the_transformer_is_not_scored_by_the_predictor_either(champion: Path, tmp_path: Path) -> None:
    body = json.dumps({"query": "cat", "client_id": "ann", "documents": [{"id": "a", "text": "red"}]}).encode()
    head = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    gone = metrics.DROPPED.labels("champion", "gone")
    with _held(champion) as (client, application, gate), ThreadPoolExecutor(1) as pool:
        before = gone._value.get()
        first = pool.submit(client.post, V1, json=_body("cat", "dog"))
        _until(lambda: application.batcher.waiting == 2)
        with transforming(str(client.base_url).rstrip("/"), tmp_path / "log") as (ranking, _, _):
            address = (str(ranking.base_url.host), int(ranking.base_url.port or 0))
            with socket.create_connection(address, timeout=60) as opened:
                opened.sendall(head + body)
                _until(lambda: application.batcher.waiting == 3)
            _until(lambda: application.batcher.waiting == 2)
        gate.opened.set()
        assert first.result(60).status_code == 200
        assert gone._value.get() == before + 1
    assert gate.scored == 2
    assert not list((tmp_path / "log").glob("*.jsonl"))  # nothing was served


def test_a_body_that_is_still_on_its_way_does_not_keep_a_drained_server_from_its_end(
    champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DRAIN_SECONDS", 0.3)
    monkeypatch.setattr(connections, "GIVEN_UP_SECONDS", 0.1, raising=False)
    monkeypatch.setattr(connections, "GRACE_SECONDS", 1)
    application = predictor.application({"champion": champion}, PredictorSettings())
    listening = connections.listen("127.0.0.1", 0)
    server = connections.Server(application)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    with socket.create_connection(listening.getsockname()) as client:
        client.sendall(f"POST {V1} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
        _until(lambda: application.accepted == 1)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(10)
        assert not thread.is_alive()
