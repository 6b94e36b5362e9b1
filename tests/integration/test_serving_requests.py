"""What clients send the predictor, right and wrong, over a socket: answered, or refused with the field's name."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kserve import InferInput, InferRequest

from serm import relevance
from serm.serving.protocols.v2 import JSON_LENGTH
from serm.serving.server import running
from serm.settings.serving import PredictorSettings

V1, V2 = "/v1/models/champion:predict", "/v2/models/champion/infer"
PAIRS = [("cat", "grinning cat"), ("dog", "red heart"), ("heart", ""), ("", "dog face")]
QUERIES, DOCUMENTS = (list(column) for column in zip(*PAIRS, strict=True))
INSTANCES = [{"query": query, "document": document} for query, document in PAIRS]
SECRET = "zebra-searched-for-this"


@pytest.fixture(scope="module")
def client(champion: Path) -> Iterator[httpx.Client]:
    with running({"champion": champion}) as ready:
        yield ready()


@pytest.fixture(scope="module")
def expected(champion: Path) -> Any:
    return relevance.load(champion).score(QUERIES, DOCUMENTS).expected


def _tensor(name: str, values: list[Any], **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": values, **changes}


def _v2(client: httpx.Client, *inputs: object, **changes: object) -> httpx.Response:
    tensors = list(inputs) or [_tensor("query", QUERIES), _tensor("document", DOCUMENTS)]
    return client.post(V2, content=json.dumps({"inputs": tensors, **changes}))


def _binary(client: httpx.Client, tensors: list[tuple[dict[str, Any], bytes]], length: object = None, **more: object):
    head = json.dumps({"inputs": [tensor for tensor, _ in tensors], **more}).encode()
    body = head + b"".join(data for _, data in tensors)
    return client.post(V2, content=body, headers={JSON_LENGTH: str(len(head) if length is None else length)})


def _packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _bytes_tensor(name: str, data: bytes, n: int, **changes: Any) -> tuple[dict[str, Any], bytes]:
    tensor = {"name": name, "datatype": "BYTES", "shape": [n], "parameters": {"binary_data_size": len(data)}}
    return {**tensor, **changes}, data


def _refused(answer: httpx.Response, status: int, field: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert field in answer.json()["error"]
    assert SECRET not in answer.text


# --- right ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/json", None])
def test_v1_is_read_whatever_its_content_type(client: httpx.Client, expected: Any, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(V1, content=json.dumps({"instances": INSTANCES}).encode(), headers=headers)
    assert [one["score"] for one in answer.json()["predictions"]] == pytest.approx(expected, abs=1e-5)


def test_v2_without_an_id_is_answered_with_one(client: httpx.Client, expected: Any) -> None:
    first, second = _v2(client).json(), _v2(client).json()
    assert first["outputs"][0]["data"] == pytest.approx(expected, abs=1e-5)
    assert len({first["id"], second["id"], ""}) == 3
    assert _v2(client, id="7").json()["id"] == "7"


def test_v2_gives_the_outputs_that_are_asked_for_in_binary_too(client: httpx.Client, expected: Any) -> None:
    asked = [{"name": "distribution"}, {"name": "score", "parameters": {"binary_data": True}}]
    for answer, names in (
        (_v2(client, outputs=asked), ["distribution", "score"]),
        (_v2(client, parameters={"binary_data_output": True}), ["score", "distribution"]),
    ):
        length = int(answer.headers[JSON_LENGTH])
        told = json.loads(answer.content[:length])
        assert [one["name"] for one in told["outputs"]] == names
        sizes = [one.get("parameters", {}).get("binary_data_size", 0) for one in told["outputs"]]
        assert length + sum(sizes) == len(answer.content)
        start = length + (sizes[0] if names[0] == "distribution" else 0)
        scores = np.frombuffer(answer.content[start : start + 8 * len(PAIRS)], "<f8")
        assert scores == pytest.approx(expected, abs=1e-5)


def test_kserves_own_client_types_are_understood(client: httpx.Client, expected: Any) -> None:
    tensors = []
    for name, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        tensors.append(InferInput(name, [len(texts)], "BYTES"))
        tensors[-1].set_data_from_numpy(np.array([text.encode() for text in texts], np.object_), binary_data=True)
    body, length = InferRequest("champion", tensors).to_rest()
    answer = client.post(V2, content=body, headers={JSON_LENGTH: str(length)})
    assert answer.json()["outputs"][0]["data"] == pytest.approx(expected, abs=1e-5)


def test_long_texts_are_cut_and_many_pairs_are_scored_in_parts(client: httpx.Client, champion: Path) -> None:
    documents = [f"{word} {n} " + "red heart " * 2000 for n in range(100) for word in ("cat", "dog", "face")]
    found = client.post(V1, json={"instances": [{"query": "cat", "document": one} for one in documents]})
    scores = relevance.load(champion).score(["cat"] * len(documents), documents).expected
    assert [one["score"] for one in found.json()["predictions"]] == pytest.approx(scores, abs=0.01)
    huge = client.post(V1, json={"instances": [{"query": "cat", "document": "cat " * 2_500_000}]})
    assert huge.status_code == 200


# --- wrong ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instances", "field"),
    [
        ("cat", "instances: expected"),
        ([], "instances: no pairs"),
        ([{"query": "cat", "document": "dog"}, {"query": SECRET}], "instances[1].document: missing"),
        ([{"query": "cat", "document": 7}], "instances[0].document: expected a text"),
        ([{"query": None, "document": SECRET}], "instances[0].query: expected a text"),
        ([{"query": "\ud800" + SECRET, "document": ""}], "instances[0].query: holds half of a character"),
        ([SECRET], "instances[0]: expected an object"),
    ],
)
def test_a_wrong_v1_request_is_told_the_field(client: httpx.Client, instances: object, field: str) -> None:
    _refused(client.post(V1, content=json.dumps({"instances": instances})), 400, field)


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "body", [f"not json {SECRET}", "", "[1]", f'"{SECRET}"', "null", "[" * 200_000, "1" * 5000, b"\xff\xfe{", "{", "{}"]
)
def test_a_body_that_is_no_request_is_refused(client: httpx.Client, path: str, body: str | bytes) -> None:
    _refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), 400, ":")


def test_more_pairs_than_are_taken(client: httpx.Client) -> None:
    pairs = [{"query": "", "document": ""}] * (PredictorSettings().max_request_pairs + 1)
    _refused(client.post(V1, json={"instances": pairs}), 413, "instances: at most 10,000 pairs")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"inputs": SECRET}, "inputs: expected a list"),
        ({"inputs": [7]}, "inputs[0]: expected a tensor"),
        ({"inputs": []}, "a BYTES tensor 'query'"),
        ({"inputs": [_tensor("query", ["cat"])]}, "a BYTES tensor 'document'"),
        ({"inputs": [_tensor("query", ["cat"])] * 2}, "two tensors have the same name"),
        ({"inputs": [_tensor("query", ["cat"]), _tensor("document", ["a", "b"])]}, "1 queries but 2 documents"),
        ({"inputs": [_tensor("query", [1.0], datatype="FP32")]}, "inputs[0].datatype"),
        ({"inputs": [_tensor("query", [SECRET], shape=[3])]}, "inputs[0].data: 1 texts, and a shape of 3"),
        ({"inputs": [_tensor("query", [SECRET], shape=[1, 1])]}, "inputs[0].shape"),
        ({"inputs": [_tensor("query", [SECRET], shape=[-1])]}, "inputs[0].shape"),
        ({"inputs": [_tensor("query", [SECRET], shape=[True])]}, "inputs[0].shape"),
        ({"inputs": [_tensor("query", [SECRET], shape="x")]}, "inputs[0].shape"),
        ({"inputs": [_tensor("query", [SECRET, 7])]}, "inputs[0].data[1]: expected a text"),
        ({"inputs": [_tensor("query", ["\udfff" + SECRET])]}, "inputs[0].data[0]: holds half of a character"),
        ({"inputs": [_tensor("query", [SECRET], data={SECRET: 1})]}, "inputs[0].data: expected a list"),
        ({"inputs": [_tensor("query", [SECRET], parameters=[1])]}, "inputs[0].parameters"),
        ({"inputs": [_tensor("query", [SECRET], parameters={"binary_data_size": 0})]}, "has data and a binary"),
        ({"id": 7}, "id: expected a text"),
        ({"id": "x" * 257}, "id: expected a text"),
        ({"id": "\ud800"}, "id: expected a text"),
        ({"outputs": SECRET}, "outputs: expected a list"),
        ({"outputs": [{"name": SECRET}]}, "outputs[0].name: expected score or distribution"),
        ({"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]}, "outputs[0].parameters.binary_data"),
        ({"parameters": {"binary_data_output": "yes"}}, "parameters.binary_data_output"),
        ({"parameters": []}, "parameters"),
    ],
)
def test_a_wrong_v2_request_is_told_the_field(client: httpx.Client, changes: dict[str, Any], field: str) -> None:
    _refused(_v2(client, **changes), 400, field)


GOOD = _bytes_tensor("document", _packed(b"dog"), 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (_bytes_tensor("query", _packed(SECRET.encode()), 2), "inputs[0].data: 1 texts, and a shape of 2"),
        (_bytes_tensor("query", _packed(b"\xff" + SECRET.encode()), 1), "inputs[0].data[0]: not UTF-8 from byte 0"),
        (_bytes_tensor("query", _packed(b"\xed\xa0\x80"), 1), "inputs[0].data[0]: not UTF-8"),
        (_bytes_tensor("query", b"\xff\xff\xff\xff" + SECRET.encode(), 1), "element 0 of its binary data"),
        (_bytes_tensor("query", b"\x01\x00", 1), "element 0 of its binary data"),
        (_bytes_tensor("query", _packed(b"cat") + b"\x05", 1), "element 1 of its binary data"),
        (_bytes_tensor("query", _packed(b"cat"), 1, datatype="FP32"), "inputs[0].datatype"),
        (_bytes_tensor("query", _packed(b"cat"), 1, shape=[1, 1]), "inputs[0].shape"),
        (_bytes_tensor("query", _packed(b"cat"), 1, parameters={"binary_data_size": 99}), "binary_data_size"),
        (_bytes_tensor("query", _packed(b"cat"), 1, parameters={"binary_data_size": -1}), "binary_data_size"),
        (_bytes_tensor("query", _packed(b"cat"), 1, parameters={"binary_data_size": "7"}), "binary_data_size"),
        (_bytes_tensor("query", _packed(b"cat"), 1, parameters={"binary_data_size": 6}), "element 0"),
        (_bytes_tensor("other", _packed(b"cat"), 1), "a BYTES tensor 'query'"),
    ],
)
def test_a_wrong_binary_tensor_is_told_the_field(
    client: httpx.Client, query: tuple[dict[str, Any], bytes], field: str
) -> None:
    _refused(_binary(client, [query, GOOD]), 400, field)


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "999999", "", "9" * 30, "٣"])
def test_a_wrong_length_of_the_json_is_told(client: httpx.Client, length: str) -> None:
    head = {JSON_LENGTH: length.encode()}
    _refused(client.post(V2, content=b'{"inputs": []}', headers=head), 400, f"header {JSON_LENGTH}")


def test_bytes_that_belong_to_nothing_are_told(client: httpx.Client) -> None:
    tensors = [_bytes_tensor("query", _packed(b"cat"), 1), GOOD]
    assert _binary(client, tensors).status_code == 200
    _refused(_binary(client, [*tensors, ({"name": "more"}, SECRET.encode())]), 400, "belong to no binary_data_size")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/repository/models/champion/unload", 404),
        ("POST", "/v2/repository/models/champion/load", 404),
        ("POST", "/v1/models/champion:explain", 405),
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/champion/versions/1/infer", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", V2, 405),
        ("DELETE", V2, 405),
        ("GET", "/docs", 404),
        ("GET", "/../../etc/passwd", 404),
    ],
)
def test_only_the_protocols_routes_are_there(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, content=b"{}" if method == "POST" else None)
    _refused(answer, status, "")
    assert ("allow" in answer.headers) == (status == 405)  # RFC 9110, 15.5.6
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.post(V1, json={"instances": INSTANCES}).status_code == 200


def test_an_exception_shows_nothing_of_itself(champion: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    from starlette.testclient import TestClient

    from serm.serving.predictor import application

    answering = application({"champion": champion}, PredictorSettings())

    def broken(queries: list[str], documents: list[str]) -> None:
        raise KeyError(queries[0])

    monkeypatch.setattr(answering.models["champion"].model, "read", broken)
    app = TestClient(answering, raise_server_exceptions=False)
    answer = app.post(V1, json={"instances": [{"query": SECRET, "document": ""}]})
    _refused(answer, 500, "The server failed on this request")
    assert "KeyError" not in answer.text
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


# --- any ----------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["query", "document", "score", "BYTES", "FP32", "cat", "\ud800", "\U0001f600", "", "\0"])
ATOMS = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | WORDS | st.text(max_size=20)
ANY = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4))
COUNTS = st.integers(-1, 4) | ANY


def fields(**of: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: strategy | ANY for name, strategy in of.items()})


TENSOR = fields(
    name=st.sampled_from(["query", "document"]),
    datatype=st.just("BYTES"),
    shape=st.lists(COUNTS, min_size=1, max_size=2),
    data=st.lists(WORDS, max_size=3),
    parameters=fields(binary_data_size=st.integers(-1, 40)),
)
REQUEST = fields(
    instances=st.lists(fields(query=WORDS, document=WORDS), max_size=3),
    inputs=st.lists(TENSOR, max_size=3),
    outputs=st.lists(fields(name=WORDS, parameters=fields(binary_data=st.booleans())), max_size=3),
    parameters=fields(binary_data_output=st.booleans()),
    id=st.text(max_size=5),
)
FUZZ = settings(
    max_examples=300,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _never_fails(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 413), (answer.status_code, answer.text)
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]


@FUZZ
@given(payload=REQUEST, path=st.sampled_from([V1, V2]))
def test_no_json_body_fails_the_server(client: httpx.Client, payload: Any, path: str) -> None:
    _never_fails(client.post(path, content=json.dumps(payload).encode()))


@FUZZ
@given(
    payload=REQUEST,
    binary=st.lists(st.binary(max_size=12), max_size=3).map(lambda texts: _packed(*texts)) | st.binary(max_size=40),
    off=st.sampled_from([0, 0, 0, -1, 1, 7]),
)
@example(payload={"inputs": [_tensor("query", ["cat"]), _tensor("document", ["dog"])]}, binary=b"", off=0)
def test_no_binary_body_fails_the_server(client: httpx.Client, payload: Any, binary: bytes, off: int) -> None:
    head = json.dumps(payload).encode()
    _never_fails(client.post(V2, content=head + binary, headers={JSON_LENGTH: str(len(head) + off)}))


@FUZZ
@given(body=st.binary(max_size=200), path=st.sampled_from([V1, V2]), length=st.none() | st.integers(-2, 250))
def test_no_bytes_fail_the_server(client: httpx.Client, body: bytes, path: str, length: int | None) -> None:
    headers = {} if length is None else {JSON_LENGTH: str(length)}
    _never_fails(client.post(path, content=body, headers=headers))
