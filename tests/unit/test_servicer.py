"""What a gRPC call is told, by the code that its client acts on: refusals, a cancelled call, a server that drains."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("kserve", reason="pip install 'serm[serve]'")

from grpc import StatusCode, aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serm.relevance import Scores
from serm.relevance.known import KnownTexts
from serm.relevance.texts import ReadText, TextPair
from serm.serving import answering, servicer
from serm.serving.application import Application
from serm.serving.batching import Batcher
from serm.serving.served import ServedModel
from serm.serving.servicer import Servicer
from serm.settings.serving import PredictorSettings

SECRET = "zebra-searched-for-this"


class Model:
    """Waits until it is let go, or fails; all its scores are 1."""

    version, max_tokens, known, slots = "v", 100, None, 0

    def __init__(self) -> None:
        self.go, self.fails, self.scored = threading.Event(), False, 0
        self.scoring = threading.Event()

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[TextPair]:
        text = ReadText(("x",), [1], 1, False, None)
        return [TextPair(text, text)] * len(queries)

    def score_read(self, pairs: Sequence[TextPair]) -> Scores:
        self.scoring.set()
        assert self.go.wait(30)
        if self.fails:
            raise RuntimeError(SECRET)
        self.scored += len(pairs)
        return Scores(np.ones(len(pairs)), np.full((len(pairs), 4), 0.25))


class Aborted(Exception):
    """What gRPC's context raises to end a call."""


class Context:
    """A call's, as grpc.aio has it."""

    def __init__(self, seconds: float | None = None, **metadata: str) -> None:
        self.seconds, self.metadata = seconds, tuple(metadata.items())
        self.code: StatusCode | None = None
        self.told, self.trailing = "", {}

    def time_remaining(self) -> float | None:
        return self.seconds

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    async def abort(self, code: StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        self.code, self.told, self.trailing = code, details, dict(trailing)
        raise Aborted


class World:
    """A servicer before a model that scores when it is let go."""

    def __init__(self, **options: Any) -> None:
        self.model = Model()
        self.batcher = Batcher(PredictorSettings(**options))
        served = ServedModel("m", Path("nowhere"), self.batcher, KnownTexts(0))
        served.model = cast("Any", self.model)
        self.application = Application({"m": served}, self.batcher)
        self.servicer = Servicer(self.application)

    def message(self, pairs: int = 1, **changes: Any) -> Any:
        tensors = [
            {
                "name": name,
                "datatype": "BYTES",
                "shape": [pairs],
                "contents": {"bytes_contents": [SECRET.encode()] * pairs},
            }
            for name in ("query", "document")
        ]
        return pb.ModelInferRequest(**{"model_name": "m", "inputs": tensors, **changes})

    def infer(self, context: Context, **changes: Any) -> Coroutine[Any, Any, Any]:
        return self.servicer.ModelInfer(self.message(**changes), context)

    async def busy(self) -> asyncio.Task[Any]:
        """Return a call whose pair the model is scoring, so that no later one shares its batch."""
        call = asyncio.create_task(self.infer(Context()))
        await _until(self.model.scoring.is_set)
        return call

    async def refused(self, context: Context, **changes: Any) -> tuple[StatusCode | None, str]:
        """Return the code and the words that a call gets; nothing of it is left behind."""
        with pytest.raises(Aborted):
            await self.infer(context, **changes)
        assert SECRET not in context.told
        return context.code, context.told


def _run(case: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(case, 30))


async def _until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"model_name": "nobody"}, StatusCode.NOT_FOUND, "No model has this name."),
        ({"inputs": []}, StatusCode.INVALID_ARGUMENT, "inputs: expected a BYTES tensor 'query'"),
        ({"inputs": [{"name": "query", "datatype": "FP32"}]}, StatusCode.INVALID_ARGUMENT, "inputs[0].datatype"),
        ({"pairs": 9}, StatusCode.INVALID_ARGUMENT, "at most 8 pairs"),
    ],
)
def test_a_wrong_call_has_the_code_of_its_fault(changes: dict[str, Any], code: StatusCode, told: str) -> None:
    async def case() -> None:
        world = World(max_request_pairs=8)
        found, words = await world.refused(Context(), **changes)
        assert found == code
        assert told in words
        assert world.application.accepted == world.batcher.waiting == 0

    _run(case())


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.05])
def test_a_call_whose_deadline_is_past_is_dropped_and_told_so(seconds: float) -> None:
    async def case() -> None:
        world = World()
        busy = asyncio.create_task(world.infer(Context()))
        await _until(lambda: world.batcher.waiting == 1)
        code, _ = await world.refused(Context(seconds))
        assert code == StatusCode.DEADLINE_EXCEEDED
        world.model.go.set()
        assert (await busy).model_version == "v"
        assert world.model.scored == 1

    _run(case())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def case() -> None:
        world = World(max_queue_pairs=2)
        busy = asyncio.create_task(world.infer(Context(), pairs=2))
        await _until(lambda: world.batcher.waiting == 2)
        context = Context()
        assert (await world.refused(context))[0] == StatusCode.RESOURCE_EXHAUSTED
        assert 1000 <= int(context.trailing["grpc-retry-pushback-ms"]) <= 30_000
        world.model.go.set()
        assert list((await busy).outputs[0].shape) == [2]

    _run(case())


def test_calls_that_wait_leave_room_for_those_that_ask_whether_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MAX_CALLS", 20)
    monkeypatch.setattr(servicer, "FOR_HEALTH", 18)

    async def case() -> None:
        world = World()
        server, port = await servicer.start(world.application, "127.0.0.1", 0)
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            waiting = [stub.ModelInfer(world.message(), timeout=20) for _ in range(2)]
            await _until(lambda: world.batcher.waiting == 2)
            for _ in range(20):
                with pytest.raises(aio.AioRpcError) as refused:
                    await stub.ModelInfer(world.message(), timeout=20)
                assert refused.value.code() == StatusCode.RESOURCE_EXHAUSTED
                assert "grpc-retry-pushback-ms" in dict(refused.value.trailing_metadata() or ())
                assert (await stub.ServerReady(pb.ServerReadyRequest(), timeout=20)).ready
            world.model.go.set()
            assert [(await one).model_name for one in waiting] == ["m", "m"]
            assert (await stub.ModelInfer(world.message(), timeout=20)).model_name == "m"
        await server.stop(0)

    _run(case())


def test_messages_in_memory_are_bounded_with_the_bodies_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "HELD_BODIES", 1)

    async def case() -> None:
        world = World(max_body_mb=1)
        large = {"parameters": {"x": pb.InferParameter(string_param="x" * 600_000)}}
        busy = asyncio.create_task(world.infer(Context(), **large))
        await _until(lambda: world.batcher.waiting == 1)
        assert (await world.refused(Context(), **large))[0] == StatusCode.RESOURCE_EXHAUSTED
        world.model.go.set()
        await busy
        assert (await world.infer(Context(), **large)).model_name == "m"

    _run(case())


def test_a_cancelled_call_leaves_nothing_behind_and_one_that_fails_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def case() -> None:
        world = World()
        busy = await world.busy()
        gone = asyncio.create_task(world.infer(Context()))
        await _until(lambda: world.batcher.waiting == 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (world.application.accepted, world.batcher.waiting) == (1, 1)
        world.model.go.set()
        await busy
        assert world.model.scored == 1
        world.model.fails = True
        assert (await world.refused(Context()))[0] == StatusCode.INTERNAL
        assert world.application.accepted == 0
        assert SECRET not in caplog.text

    _run(case())


def test_a_server_that_drains_takes_no_call_and_gives_up_what_waits_in_the_end() -> None:
    async def case() -> None:
        world = World()
        busy = await world.busy()
        context = Context()
        waits = asyncio.create_task(world.refused(context))
        await _until(lambda: world.batcher.waiting == 2)
        world.application.draining = True
        assert (await world.refused(Context()))[0] == StatusCode.UNAVAILABLE
        assert not (await world.servicer.ModelReady(pb.ModelReadyRequest(name="m"), Context())).ready
        assert not (await world.servicer.ServerReady(None, Context())).ready
        world.application.give_up()
        world.model.go.set()
        assert (await busy).model_name == "m"
        assert (await waits)[0] == StatusCode.UNAVAILABLE

    _run(case())


def test_a_model_that_is_not_there_is_told_by_each_call_that_names_one() -> None:
    async def case() -> None:
        asked = World().servicer
        for call, message in (
            (asked.ModelReady, pb.ModelReadyRequest(name="nobody")),
            (asked.ModelMetadata, pb.ModelMetadataRequest(name="nobody")),
        ):
            context = Context()
            with pytest.raises(Aborted):
                await call(message, context)
            assert context.code == StatusCode.NOT_FOUND

    _run(case())


def test_the_access_log_tells_a_calls_own_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An earlier test's handler writes to the standard output that it had.
    monkeypatch.setattr(logging.getLogger("serm.serving.access"), "handlers", [])

    async def case() -> None:
        world = World(access_log="requests")
        world.model.go.set()
        await world.infer(Context(**{"x-request-id": 'one"\n'}))
        await world.refused(Context(), model_name=SECRET)

    _run(case())
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["request_id"], first["status"], first["pairs"]) == ('one"\n', 200, 1)
    assert second["status"] == 404
