"""KServe's v2 protocol over HTTP: ``query`` and ``document`` are BYTES tensors, in JSON or in the binary extension.

A body is read here and not by KServe, whose decoder takes wrong binary sizes for its own errors and whose model wants
what the protocol leaves out.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kserve.errors import InvalidInput
from numpy.typing import NDArray

from serm.contracts import Grade
from serm.escaping import is_storable
from serm.serving.protocols.request import (
    Answer,
    Request,
    Scored,
    as_json,
    as_text,
    few_enough,
    flag,
    is_count,
    json_object,
)
from serm.settings.serving import PredictorSettings

JSON_LENGTH = "inference-header-content-length"
"""The header of v2's binary extension: how many bytes of the body are JSON; the tensors' own follow."""
TEXTS = ("query", "document")
OUTPUTS = {"score": (), "distribution": (len(Grade),)}


def input_types() -> list[dict[str, Any]]:
    """Return v2's metadata of the inputs."""
    return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in TEXTS]


def output_types() -> list[dict[str, Any]]:
    """Return v2's metadata of the outputs."""
    return [{"name": name, "datatype": "FP64", "shape": [-1, *shape]} for name, shape in OUTPUTS.items()]


def outputs_of(scored: Scored) -> dict[str, NDArray[np.float64]]:
    """Return the outputs' values, each ``n`` rows."""
    return {"score": scored.scores.expected, "distribution": scored.scores.distribution}


@dataclass(frozen=True)
class V2Request(Request):
    """A request of ``infer``."""

    id: str
    outputs: tuple[tuple[str, bool], ...]
    """The outputs: name, and whether it is wanted in binary."""

    def answer(self, scored: Scored, name: str, version: str) -> Answer:
        """Write the tensors, in JSON or behind it."""
        values = outputs_of(scored)
        outputs, binary = [], []
        for output, as_binary in self.outputs:
            told: dict[str, Any] = {"name": output, "shape": list(values[output].shape), "datatype": "FP64"}
            if as_binary:
                binary.append(values[output].astype("<f8").tobytes())
                told["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                told["data"] = values[output].ravel().tolist()
            outputs.append(told)
        made = {"id": self.id, "model_name": name, "model_version": version, "outputs": outputs}
        found = as_json({**made, "parameters": {"truncated": len(scored.cut)}} if scored.cut else made)
        if not binary:
            return found
        headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(found.data))}
        return Answer(b"".join([found.data, *binary]), headers)


def read(data: bytes, json_length: str | None, limits: PredictorSettings) -> V2Request:
    """Return the pairs of a body; raises ``InvalidInput`` or ``TooLarge``."""
    length = _json_length(json_length, len(data))
    payload, binary = json_object(data[:length]), memoryview(data)[length:]
    tensors = _tensors(payload.get("inputs"))
    texts: dict[str, list[str]] = {}
    start = 0
    for number, tensor in enumerate(tensors):
        where = f"inputs[{number}]"
        size = _binary_size(tensor, where, len(binary) - start)
        if tensor["name"] in TEXTS:
            texts[tensor["name"]] = _strings(
                tensor, where, None if size is None else binary[start : start + size], limits
            )
        start += size or 0
    if start != len(binary):
        raise InvalidInput(f"inputs: {len(binary) - start} bytes behind the JSON belong to no binary_data_size.")
    queries, documents = pairs_of(texts)
    return V2Request(queries, documents, request_id(payload.get("id")), _outputs(payload))


def pairs_of(texts: Mapping[str, list[str]]) -> tuple[list[str], list[str]]:
    """Return the queries and the documents of a request's tensors, by name; raises ``InvalidInput``."""
    for name in TEXTS:
        if name not in texts:
            raise InvalidInput(f"inputs: expected a BYTES tensor {name!r} of shape [n].")
    queries, documents = (texts[name] for name in TEXTS)
    if len(queries) != len(documents):
        raise InvalidInput(f"inputs: {len(queries)} queries but {len(documents)} documents; a pair is one of each.")
    return queries, documents


def _json_length(header: str | None, whole: int) -> int:
    if header is None:
        return whole
    if not (header.isascii() and header.isdecimal() and len(header) < 19 and int(header) <= whole):
        raise InvalidInput(f"header {JSON_LENGTH}: expected the JSON's length in bytes, at most the body's {whole}.")
    return int(header)


def _tensors(inputs: Any) -> list[dict[str, Any]]:
    if not isinstance(inputs, list):
        raise InvalidInput("inputs: expected a list of tensors.")
    names = []
    for number, tensor in enumerate(inputs):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise InvalidInput(f"inputs[{number}]: expected a tensor with a name.")
        names.append(tensor["name"])
    if len(set(names)) < len(names):
        raise InvalidInput("inputs: two tensors have the same name.")
    return inputs


def _binary_size(tensor: dict[str, Any], where: str, left: int) -> int | None:
    """Return how many bytes behind the JSON are the tensor's, or None where its data stands in the JSON."""
    parameters = tensor.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidInput(f"{where}.parameters: expected an object.")
    size = (parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if tensor.get("data") is not None:
        raise InvalidInput(f"{where}: has data and a binary_data_size; send one of them.")
    if not is_count(size) or size > left:
        raise InvalidInput(
            f"{where}.parameters.binary_data_size: expected a number of bytes, of which the body has {left} left"
            f" (the header {JSON_LENGTH} says where they begin)."
        )
    return int(size)


def _strings(tensor: dict[str, Any], where: str, binary: memoryview | None, limits: PredictorSettings) -> list[str]:
    """Return the texts of a BYTES tensor of shape [n]."""
    if tensor.get("datatype") != "BYTES":
        raise InvalidInput(f"{where}.datatype: expected BYTES.")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or not is_count(shape[0]):
        raise InvalidInput(f"{where}.shape: expected [n], one number.")
    few_enough(int(shape[0]), where, limits.max_request_pairs)
    if binary is None:
        values = tensor.get("data")
        if not isinstance(values, list):
            raise InvalidInput(f"{where}.data: expected a list of texts.")
        texts: Sequence[Any] = values
    else:
        texts = length_prefixed(binary, where, limits.max_request_pairs)
    if len(texts) != shape[0]:
        raise InvalidInput(f"{where}.data: {len(texts)} texts, and a shape of {shape[0]}.")
    return [as_text(text, f"{where}.data[{row}]", limits.max_text_characters) for row, text in enumerate(texts)]


def length_prefixed(binary: memoryview, where: str, most: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor: each is its length in 4 bytes, little-endian, then its bytes."""
    texts: list[bytes] = []
    at = 0
    while at < len(binary):
        end = at + 4 + int.from_bytes(binary[at : at + 4], "little")
        if end > len(binary) or at + 4 > len(binary):
            raise InvalidInput(f"{where}: element {len(texts)} of its binary data goes beyond its binary_data_size.")
        few_enough(len(texts) + 1, where, most)
        texts.append(bytes(binary[at + 4 : end]))
        at = end
    return texts


def _outputs(payload: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    parameters, asked = payload.get("parameters"), payload.get("outputs")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidInput("parameters: expected an object.")
    all_binary = flag((parameters or {}).get("binary_data_output", False), "parameters.binary_data_output")
    if not asked and (asked is None or isinstance(asked, list)):
        return tuple((name, all_binary) for name in OUTPUTS)
    if not isinstance(asked, list):
        raise InvalidInput("outputs: expected a list of objects with a name.")
    wanted: dict[str, bool] = {}
    for number, output in enumerate(asked):
        where = f"outputs[{number}]"
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise InvalidInput(f"{where}.name: expected {' or '.join(OUTPUTS)}.")
        options = output.get("parameters")
        if options is not None and not isinstance(options, dict):
            raise InvalidInput(f"{where}.parameters: expected an object.")
        wanted[name] = flag((options or {}).get("binary_data", all_binary), f"{where}.parameters.binary_data")
    return tuple(wanted.items())


def request_id(value: Any) -> str:
    """Return the request's id, or make one: the protocol lets a client leave it out."""
    if value is None:
        return uuid.uuid4().hex
    if not isinstance(value, str) or len(value) > 256 or not is_storable(value):
        raise InvalidInput("id: expected a text of at most 256 characters.")
    return value
