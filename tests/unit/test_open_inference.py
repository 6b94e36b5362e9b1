"""KServe's v2 protocol over gRPC: the pairs of a message, its answer, and what is refused by its field's name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serm.relevance import Scores
from serm.serving.protocols import open_inference
from serm.serving.protocols.request import Scored
from serm.settings.serving import PredictorSettings

LIMITS = PredictorSettings(max_request_pairs=4)


def message(raw: bool = False, **texts: list[str]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(id="7")
    for name, values in texts.items():
        tensor = made.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        whole = [value.encode() for value in values]
        if raw:
            made.raw_input_contents.append(b"".join(struct.pack("<I", len(one)) + one for one in whole))
        else:
            tensor.contents.bytes_contents.extend(whole)
    return made


@pytest.mark.parametrize("raw", [False, True])
def test_pairs_come_in_and_scores_go_out_the_same_way(raw: bool) -> None:
    request = open_inference.read(message(raw, query=["a", "ä"], document=["b", ""]), LIMITS)
    assert (request.queries, request.documents, request.id) == (["a", "ä"], ["b", ""], "7")
    scores = Scores(np.array([1.5, 3.0]), np.array([[0.25] * 4, [0, 0, 0, 1]]))
    answer = request.answer(Scored(scores, cut=(1,)), "model", "v1").data
    assert (answer.model_name, answer.model_version, answer.id) == ("model", "v1", "7")
    assert answer.parameters["truncated"].int64_param == 1
    assert [(one.name, list(one.shape)) for one in answer.outputs] == [("score", [2]), ("distribution", [2, 4])]
    if raw:
        found = [np.frombuffer(one, "<f8").tolist() for one in answer.raw_output_contents]
    else:
        found = [list(one.contents.fp64_contents) for one in answer.outputs]
    assert found == [scores.expected.tolist(), scores.distribution.ravel().tolist()]


def test_only_the_outputs_that_are_asked_for_are_sent() -> None:
    asked = message(query=["a"], document=["b"])
    for name in ("score", "score"):
        asked.outputs.add(name=name)
    assert open_inference.read(asked, LIMITS).outputs == ("score",)


def spoilt(field: str) -> pb.ModelInferRequest:
    made = message(field == "raw", query=["a", "b"], document=["c", "d"])
    first = made.inputs[0]
    if field == "no document":
        del made.inputs[1]
    elif field == "twice":
        made.inputs.append(first)
    elif field == "datatype":
        first.datatype = "FP64"
    elif field == "shape":
        first.shape.append(1)
    elif field == "count":
        first.shape[0] = 3
    elif field == "fewer":
        del first.contents.bytes_contents[1]
        first.shape[0] = 1
    elif field == "utf-8":
        first.contents.bytes_contents[1] = b"\xff"
    elif field == "raw":
        del made.raw_input_contents[1]
    elif field == "output":
        made.outputs.add(name="logits")
    return made


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("no document", "expected a BYTES tensor 'document'"),
        ("twice", "two tensors have the same name"),
        ("datatype", r"inputs\[0\].datatype: expected BYTES"),
        ("shape", r"inputs\[0\].shape: expected \[n\]"),
        ("count", r"inputs\[0\].contents: 2 texts, and a shape of 3"),
        ("fewer", "1 queries but 2 documents"),
        ("utf-8", r"inputs\[0\].contents\[1\]: not UTF-8"),
        ("raw", "raw_input_contents: 1 for 2 inputs"),
        ("output", r"outputs\[0\].name: expected score or distribution"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(field: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        open_inference.read(spoilt(field), LIMITS)
