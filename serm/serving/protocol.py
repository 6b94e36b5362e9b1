"""KServe's v1 and v2 REST bodies: pairs of texts out of a request, and scores into its answer.

Nothing in a request is trusted: what does not fit raises ``InvalidInput`` (HTTP 400) or ``TooLarge`` (413) with the
field's name, and never with what stood in it. A body is read here and not by KServe, whose decoder takes wrong binary
sizes for its own errors and whose model wants what the protocol leaves out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from kserve.errors import InvalidInput
from numpy.typing import NDArray

from serm.contracts import Grade
from serm.relevance import Scores
from serm.relevance.interface import MAX_CHARACTERS, readable

MAX_PAIRS = 10_000
"""Pairs in one request; the models read them in parts."""
JSON_LENGTH = "inference-header-content-length"
"""The header of v2's binary extension: how many bytes of the body are JSON; the tensors' own follow."""
_TEXTS = ("query", "document")
_OUTPUTS = {"score": (), "distribution": (len(Grade),)}
_TOO_MANY = f"at most {MAX_PAIRS:,} pairs are scored in one request."
Version = Literal["v1", "v2"]


class TooLarge(ValueError):
    """More than is taken in one request (HTTP 413)."""


@dataclass(frozen=True)
class Body:
    """A request's body as it came."""

    version: Version
    data: bytes
    json_length: str | None = None
    """The header ``JSON_LENGTH``, where there is one."""


@dataclass(frozen=True)
class Request:
    """What to score, each text cut after ``MAX_CHARACTERS``, and how the answer is wanted."""

    version: Version
    queries: list[str]
    documents: list[str]
    id: str = ""
    outputs: tuple[tuple[str, bool], ...] = tuple((name, False) for name in _OUTPUTS)
    """v2's outputs: name, and whether it is wanted in binary."""


@dataclass(frozen=True)
class Answer:
    """A response's body, and its headers."""

    data: bytes
    headers: Mapping[str, str]


def input_types() -> list[dict[str, Any]]:
    """Return v2's metadata of the inputs."""
    return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in _TEXTS]


def output_types() -> list[dict[str, Any]]:
    """Return v2's metadata of the outputs."""
    return [{"name": name, "datatype": "FP64", "shape": [-1, *shape]} for name, shape in _OUTPUTS.items()]


def read_request(body: Body) -> Request:
    """Return the pairs of a request.

    Raises:
        InvalidInput: it has none, or is not of its protocol.
        TooLarge: it has more than ``MAX_PAIRS``.
    """
    return _read_v1(body.data) if body.version == "v1" else _read_v2(body.data, body.json_length)


def answer(pairs: Request, scores: Scores, name: str, version: str) -> Answer:
    """Return what ``pairs`` gets from the model ``name`` in its ``version``."""
    if pairs.version == "v2":
        return _answer_v2(pairs, scores, name, version)
    both = zip(scores.expected.tolist(), scores.distribution.tolist(), strict=True)
    predictions = [{"score": score, "distribution": distribution} for score, distribution in both]
    return _as_json({"predictions": predictions, "model_version": version})


def _read_v1(data: bytes) -> Request:
    payload = _object(data)
    instances = payload.get("instances")
    if not isinstance(instances, list):
        raise InvalidInput('instances: expected {"instances": [{"query": "...", "document": "..."}]}.')
    _few_enough(len(instances), "instances")
    texts: tuple[list[str], list[str]] = ([], [])
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise InvalidInput(f'instances[{row}]: expected an object with "query" and "document".')
        for name, column in zip(_TEXTS, texts, strict=True):
            if name not in instance:
                raise InvalidInput(f'instances[{row}].{name}: missing; a pair is a "query" and a "document".')
            column.append(_text(instance[name], f"instances[{row}].{name}"))
    return Request("v1", *texts)


def _read_v2(data: bytes, json_length: str | None) -> Request:
    length = _json_length(json_length, len(data))
    payload, binary = _object(data[:length]), memoryview(data)[length:]
    tensors = _tensors(payload.get("inputs"))
    texts: dict[str, list[str]] = {}
    start = 0
    for number, tensor in enumerate(tensors):
        where = f"inputs[{number}]"
        size = _binary_size(tensor, where, len(binary) - start)
        if tensor["name"] in _TEXTS:
            texts[tensor["name"]] = _strings(tensor, where, None if size is None else binary[start : start + size])
        start += size or 0
    if start != len(binary):
        raise InvalidInput(f"inputs: {len(binary) - start} bytes behind the JSON belong to no binary_data_size.")
    for name in _TEXTS:
        if name not in texts:
            raise InvalidInput(f"inputs: expected a BYTES tensor {name!r} of shape [n].")
    queries, documents = (texts[name] for name in _TEXTS)
    if len(queries) != len(documents):
        raise InvalidInput(f"inputs: {len(queries)} queries but {len(documents)} documents; a pair is one of each.")
    return Request("v2", queries, documents, _id(payload.get("id")), _outputs(payload))


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
    if not _is_count(size) or size > left:
        raise InvalidInput(
            f"{where}.parameters.binary_data_size: expected a number of bytes, of which the body has {left} left"
            f" (the header {JSON_LENGTH} says where they begin)."
        )
    return int(size)


def _strings(tensor: dict[str, Any], where: str, binary: memoryview | None) -> list[str]:
    """Return the texts of a BYTES tensor of shape [n]."""
    if tensor.get("datatype") != "BYTES":
        raise InvalidInput(f"{where}.datatype: expected BYTES.")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or not _is_count(shape[0]):
        raise InvalidInput(f"{where}.shape: expected [n], one number.")
    _few_enough(shape[0], where)
    if binary is None:
        values = tensor.get("data")
        if not isinstance(values, list):
            raise InvalidInput(f"{where}.data: expected a list of texts.")
        texts: Sequence[Any] = values
    else:
        texts = _length_prefixed(binary, where)
    if len(texts) != shape[0]:
        raise InvalidInput(f"{where}.data: {len(texts)} texts, and a shape of {shape[0]}.")
    return [_text(text, f"{where}.data[{row}]") for row, text in enumerate(texts)]


def _length_prefixed(binary: memoryview, where: str) -> list[bytes]:
    """Return the elements of a binary BYTES tensor: each is its length in 4 bytes, little-endian, then its bytes."""
    texts: list[bytes] = []
    at = 0
    while at < len(binary):
        end = at + 4 + int.from_bytes(binary[at : at + 4], "little")
        if end > len(binary) or at + 4 > len(binary):
            raise InvalidInput(f"{where}: element {len(texts)} of its binary data goes beyond its binary_data_size.")
        _few_enough(len(texts) + 1, where)
        texts.append(bytes(binary[at + 4 : end]))
        at = end
    return texts


def _outputs(payload: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    parameters, asked = payload.get("parameters"), payload.get("outputs")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidInput("parameters: expected an object.")
    all_binary = _flag((parameters or {}).get("binary_data_output", False), "parameters.binary_data_output")
    if not asked and (asked is None or isinstance(asked, list)):
        return tuple((name, all_binary) for name in _OUTPUTS)
    if not isinstance(asked, list):
        raise InvalidInput("outputs: expected a list of objects with a name.")
    wanted: dict[str, bool] = {}
    for number, output in enumerate(asked):
        where = f"outputs[{number}]"
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in _OUTPUTS:
            raise InvalidInput(f"{where}.name: expected {' or '.join(_OUTPUTS)}.")
        options = output.get("parameters")
        if options is not None and not isinstance(options, dict):
            raise InvalidInput(f"{where}.parameters: expected an object.")
        wanted[name] = _flag((options or {}).get("binary_data", all_binary), f"{where}.parameters.binary_data")
    return tuple(wanted.items())


def _answer_v2(pairs: Request, scores: Scores, name: str, version: str) -> Answer:
    values: dict[str, NDArray[np.float64]] = {"score": scores.expected, "distribution": scores.distribution}
    outputs, binary = [], []
    for output, as_binary in pairs.outputs:
        told: dict[str, Any] = {"name": output, "shape": list(values[output].shape), "datatype": "FP64"}
        if as_binary:
            binary.append(values[output].astype("<f8").tobytes())
            told["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            told["data"] = values[output].ravel().tolist()
        outputs.append(told)
    made = {"id": pairs.id, "model_name": name, "model_version": version, "outputs": outputs}
    found = _as_json(made)
    if not binary:
        return found
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(found.data))}
    return Answer(b"".join([found.data, *binary]), headers)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        value = _with_surrogates(data, error)
    if not isinstance(value, dict):
        raise InvalidInput("body: expected a JSON object.")
    return value


def _with_surrogates(data: bytes, error: json.JSONDecodeError) -> Any:
    """Read JSON that orjson does not take for half a character in it, so that the field that holds it can be named."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"body: not JSON in UTF-8, from line {error.lineno}, column {error.colno} on.") from None


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{where}: not UTF-8 from byte {error.start} on.") from None
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: expected a text.")
    text = readable(value, MAX_CHARACTERS)
    if not _storable(text):
        raise InvalidInput(f"{where}: holds half of a character (a lone surrogate).")
    return text


def _id(value: Any) -> str:
    """Return the request's id, or make one: the protocol lets a client leave it out."""
    if value is None:
        return uuid.uuid4().hex
    if not isinstance(value, str) or len(value) > 256 or not _storable(value):
        raise InvalidInput("id: expected a text of at most 256 characters.")
    return value


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _few_enough(pairs: int, where: str) -> None:
    if not pairs:
        raise InvalidInput(f"{where}: no pairs; send at least one.")
    if pairs > MAX_PAIRS:
        raise TooLarge(f"{where}: {_TOO_MANY}")


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}: expected true or false.")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _as_json(value: dict[str, Any]) -> Answer:
    return Answer(orjson.dumps(value), {"content-type": "application/json"})
