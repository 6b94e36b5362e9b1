"""KServe's v2 protocol over gRPC (the Open Inference Protocol), with its own generated messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serm.serving.protocols.request import Answer, Request, Scored, as_text, few_enough
from serm.serving.protocols.v2 import OUTPUTS, TEXTS, length_prefixed, outputs_of, pairs_of, request_id
from serm.settings.serving import PredictorSettings


@dataclass(frozen=True)
class GrpcRequest(Request):
    """A request of ``ModelInfer``."""

    id: str
    outputs: tuple[str, ...]
    raw: bool
    """Whether its tensors came as raw bytes; the answer's go the same way."""

    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write the tensors."""
        values = outputs_of(scored)
        message = pb.ModelInferResponse(model_name=name, model_version=version, id=self.id)
        if scored.cut:
            message.parameters["truncated"].int64_param = len(scored.cut)
        for output in self.outputs:
            tensor = message.outputs.add(name=output, datatype="FP64", shape=values[output].shape)
            if self.raw:
                message.raw_output_contents.append(values[output].astype("<f8").tobytes())
            else:
                tensor.contents.fp64_contents.extend(values[output].ravel())
        return Answer(message)


def read(message: Any, limits: PredictorSettings) -> GrpcRequest:
    """Return the pairs of a ``ModelInferRequest``; raises ``InvalidInput`` or ``TooLarge``."""
    raw = len(message.raw_input_contents)
    if raw and raw != len(message.inputs):
        raise InvalidInput(f"raw_input_contents: {raw} for {len(message.inputs)} inputs.")
    texts: dict[str, list[str]] = {}
    for number, tensor in enumerate(message.inputs):
        where = f"inputs[{number}]"
        if tensor.name in texts:
            raise InvalidInput("inputs: two tensors have the same name.")
        if tensor.name in TEXTS:
            texts[tensor.name] = _strings(tensor, where, message.raw_input_contents[number] if raw else None, limits)
    queries, documents = pairs_of(texts)
    outputs = tuple(dict.fromkeys(output.name for output in message.outputs)) or tuple(OUTPUTS)
    if unknown := [number for number, output in enumerate(message.outputs) if output.name not in OUTPUTS]:
        raise InvalidInput(f"outputs[{unknown[0]}].name: expected {' or '.join(OUTPUTS)}.")
    return GrpcRequest(queries, documents, request_id(message.id or None), outputs, bool(raw))


def _strings(tensor: Any, where: str, raw: bytes | None, limits: PredictorSettings) -> list[str]:
    """Return the texts of a BYTES tensor of shape [n]."""
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"{where}.datatype: expected BYTES.")
    if len(tensor.shape) != 1:
        raise InvalidInput(f"{where}.shape: expected [n], one number.")
    few_enough(max(0, tensor.shape[0]), where, limits.max_request_pairs)
    if raw is None:
        found = list(tensor.contents.bytes_contents)
    else:
        found = length_prefixed(memoryview(raw), where, limits.max_request_pairs)
    if len(found) != tensor.shape[0]:
        raise InvalidInput(f"{where}.contents: {len(found)} texts, and a shape of {tensor.shape[0]}.")
    return [as_text(text, f"{where}.contents[{row}]", limits.max_text_characters) for row, text in enumerate(found)]
