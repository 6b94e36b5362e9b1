"""The Open Inference Protocol's own clients: Triton's over HTTP and gRPC, KServe's over gRPC."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import serving_here
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serm import relevance
from serm.settings.serving import PredictorSettings

QUERIES, DOCUMENTS = ["cat", "dog", ""], ["red heart", "dog face", "grinning cat"]
SECRET = "zebra-searched-for-this"


@pytest.fixture(scope="module")
def server(champion: Path) -> Iterator[tuple[httpx.Client, str]]:
    with serving_here.serving({"champion": champion}, PredictorSettings(max_request_pairs=100), grpc=True) as client:
        yield client, client.headers["x-grpc-address"]


@pytest.fixture(scope="module")
def expected(champion: Path) -> Any:
    return relevance.load(champion).score(QUERIES, DOCUMENTS)


@pytest.fixture(scope="module")
def stub(server: tuple[httpx.Client, str]) -> Iterator[Any]:
    with grpc.insecure_channel(server[1]) as channel:
        yield GRPCInferenceServiceStub(channel)


def _request(name: str = "champion", **changes: Any) -> Any:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(
            name=name,
            datatype="BYTES",
            shape=[len(texts)],
            contents=pb.InferTensorContents(bytes_contents=[text.encode() for text in texts]),
        )
        for name, texts in (("query", QUERIES), ("document", DOCUMENTS))
    ]
    return pb.ModelInferRequest(**{"model_name": name, "inputs": inputs, **changes})


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_http_client_gets_the_models_scores(
    server: tuple[httpx.Client, str], expected: Any, binary: bool
) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="pip install 'serm[dev]'")
    url = server[0].base_url
    asking, options = triton.InferenceServerClient(f"{url.host}:{url.port}"), {"binary_data": binary}
    inputs = []
    for name, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        inputs.append(triton.InferInput(name, [len(texts)], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([text.encode() for text in texts], np.object_), **options)
    outputs = [triton.InferRequestedOutput(name, **options) for name in ("distribution", "score")]
    assert asking.is_server_live()
    assert asking.is_model_ready("champion")
    found = asking.infer("champion", inputs, outputs=outputs)
    assert found.as_numpy("score") == pytest.approx(expected.expected, abs=1e-5)
    assert found.as_numpy("distribution") == pytest.approx(expected.distribution, abs=1e-5)
    asking.close()


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
address, queries, documents = json.loads(sys.argv[1])
client = triton.InferenceServerClient(address)
inputs = []
for name, texts in (("query", queries), ("document", documents)):
    inputs.append(triton.InferInput(name, [len(texts)], "BYTES"))
    inputs[-1].set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
assert client.is_server_ready() and client.is_model_ready("champion")
print(json.dumps(client.infer("champion", inputs).as_numpy("score").tolist()))
"""


def test_tritons_grpc_client_gets_the_models_scores(server: tuple[httpx.Client, str], expected: Any) -> None:
    """In a process of its own: its messages have the names of KServe's."""
    pytest.importorskip("tritonclient", reason="pip install 'serm[dev]'")
    asked = json.dumps([server[1], QUERIES, DOCUMENTS])
    done = subprocess.run([sys.executable, "-c", TRITON, asked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(expected.expected, abs=1e-5)


def test_kserves_own_client_gets_the_models_scores(server: tuple[httpx.Client, str], expected: Any) -> None:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask() -> Any:
        tensors = []
        for name, texts in (("query", QUERIES), ("document", DOCUMENTS)):
            tensors.append(InferInput(name, [len(texts)], "BYTES"))
            tensors[-1].set_data_from_numpy(np.array([text.encode() for text in texts], np.object_), binary_data=True)
        async with InferenceGRPCClient(server[1]) as client:
            assert await client.is_model_ready("champion")
            return await client.infer(InferRequest("champion", tensors), timeout=60)

    found = asyncio.run(ask())
    assert found.outputs[0].as_numpy() == pytest.approx(expected.expected, abs=1e-5)


def test_grpc_says_what_a_model_takes_and_makes_an_id(stub: Any, expected: Any) -> None:
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name="champion"))
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [
        ("query", "BYTES", [-1]),
        ("document", "BYTES", [-1]),
    ]
    assert [list(one.shape) for one in told.outputs] == [[-1], [-1, 4]]
    found = stub.ModelInfer(_request())
    assert list(found.outputs[0].contents.fp64_contents) == pytest.approx(expected.expected, abs=1e-5)
    assert found.id
    assert stub.ModelInfer(_request(id="7")).id == "7"
    assert stub.ServerReady(pb.ServerReadyRequest()).ready


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"name": "nobody"}, "NOT_FOUND", "No model"),
        ({"inputs": []}, "INVALID_ARGUMENT", "a BYTES tensor 'query'"),
        ({"raw_input_contents": [SECRET.encode()]}, "INVALID_ARGUMENT", "raw_input_contents: 1 for 2 inputs"),
        ({"raw_input_contents": [SECRET.encode()] * 2}, "INVALID_ARGUMENT", "inputs[0]: element 0"),
        ({"outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(name=SECRET)]}, "INVALID_ARGUMENT", "outputs[0]"),
        ({"inputs": [{"name": "query", "datatype": "FP32", "shape": [1]}]}, "INVALID_ARGUMENT", "inputs[0].datatype"),
        ({"inputs": [{"name": "query", "datatype": "BYTES", "shape": [1, 1]}]}, "INVALID_ARGUMENT", "inputs[0].shape"),
        ({"inputs": [{"name": "query", "datatype": "BYTES", "shape": [-1]}]}, "INVALID_ARGUMENT", "no pairs"),
        ({"inputs": [{"name": "query", "datatype": "BYTES", "shape": [101]}]}, "INVALID_ARGUMENT", "at most 100 pairs"),
        ({"inputs": [{"name": "query", "datatype": "BYTES", "shape": [2]}]}, "INVALID_ARGUMENT", "0 texts"),
        ({"id": "x" * 300}, "INVALID_ARGUMENT", "id: expected"),
    ],
)
def test_a_wrong_call_is_told_the_field(stub: Any, changes: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(_request(**changes))
    assert refused.value.code().name == code
    assert field in refused.value.details()
    assert SECRET not in refused.value.details()


def test_a_call_that_loads_or_unloads_is_not_there(stub: Any) -> None:
    for call, request in (
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="champion")),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="champion")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert refused.value.code().name == "UNIMPLEMENTED"
    assert stub.ModelReady(pb.ModelReadyRequest(name="champion")).ready
