"""The predictor over gRPC: KServe's service, whose calls that load and unload models are not there."""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn

from grpc import StatusCode, aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from opentelemetry.trace import Span

from serm.errors import UserError
from serm.serving.application import EXTENSIONS, Application
from serm.serving.protocols import open_inference, v2
from serm.serving.refusals import Busy, Refusal, Stopping, UnknownModel, refusal
from serm.serving.served import DEADLINE

MAX_CALLS = 256
"""Calls at once; a message is in memory before its handler is asked, so their number is bounded."""
FOR_HEALTH = 16
"""Of them those that ``ModelInfer`` leaves to the others, which answer at once."""
_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    404: StatusCode.NOT_FOUND,
    413: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    503: StatusCode.UNAVAILABLE,
}


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers gRPC for the application's models, with its batches and its bounds."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._infer_calls = 0

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Say whether new requests are taken."""
        return pb.ServerReadyResponse(ready=not self._application.draining)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Say whether new requests for a model are taken."""
        await self._known(request.name, context)
        return pb.ModelReadyResponse(ready=not self._application.draining)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Say which server it is."""
        return pb.ServerMetadataResponse(name="serm", version=version("serm"), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Say what a model takes and gives."""
        model = await self._known(request.name, context)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[model.model.version],
            inputs=[pb.ModelMetadataResponse.TensorMetadata(**one) for one in v2.input_types()],
            outputs=[pb.ModelMetadataResponse.TensorMetadata(**one) for one in v2.output_types()],
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Score pairs; a call that its client cancels is dropped."""
        tracing, headers = self._application.tracing, dict(context.invocation_metadata() or ())
        named = {"rpc.system": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer"}
        with tracing.request("inference.GRPCInferenceService/ModelInfer", headers, named) as span:
            self._infer_calls += 1
            try:
                return await self._inferred(request, context, span, str(headers.get("x-request-id", "")))
            finally:
                self._infer_calls -= 1

    async def _inferred(self, request: Any, context: Any, span: Span, request_id: str) -> Any:
        application = self._application
        start, status, code, answered = time.perf_counter(), 0, StatusCode.CANCELLED, None
        accepted = not application.draining
        application.accepted += accepted
        try:
            if not accepted:
                raise Stopping
            if self._infer_calls > MAX_CALLS - FOR_HEALTH:
                raise Busy(application.retry_after())
            if request.model_name not in application.models:
                raise UnknownModel
            left = context.time_remaining()
            headers = {} if left is None else {DEADLINE: str(max(1, int(1000 * left)))}
            model = application.models[request.model_name]
            with application.holding(request.ByteSize()):
                answered = (await model(partial(open_inference.read, request), headers))[0]
            status, code = 200, StatusCode.OK
            return answered.answer.data
        except Exception as error:
            refused = refusal(error)
            status, code = refused.status, _code(refused)
            await _refuse(refused, context)
        finally:
            application.accepted -= accepted
            application.log("grpc", "ModelInfer", status, start, answered, request_id)
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            application.tracing.answered(span, status, answered)

    async def _known(self, name: str, context: Any) -> Any:
        if name not in self._application.models:
            await _refuse(refusal(UnknownModel()), context)
        return self._application.models[name]


def _code(refused: Refusal) -> StatusCode:
    return StatusCode.DEADLINE_EXCEEDED if refused.late else _CODES.get(refused.status, StatusCode.INTERNAL)


async def _refuse(refused: Refusal, context: Any) -> NoReturn:
    again = () if refused.retry_after is None else (("grpc-retry-pushback-ms", str(1000 * refused.retry_after)),)
    await context.abort(_code(refused), refused.reason, again)
    raise AssertionError  # abort raises


async def start(application: Application, host: str, port: int) -> tuple[aio.Server, int]:
    """Listen on ``host`` and ``port``, 0 for a free one; return the server, and the port.

    Raises:
        UserError: the address is taken.
    """
    size = application.batcher.settings.max_body_mb * 1_000_000
    options = (("grpc.max_receive_message_length", size), ("grpc.so_reuseport", 0))
    server = aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
    add_GRPCInferenceServiceServicer_to_server(Servicer(application), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise UserError(f"{host}:{port}: cannot listen there; give another --host or --grpc-port.") from error
    await server.start()
    return server, bound
