"""The peer of benchmarks/serving.py: sentence-transformers' cross-encoder of the same size, and its graph in int8."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from serm import relevance

CROSS_ENCODER, CROSS_ENCODER_INT8 = "CrossEncoder.predict fp32", "CrossEncoder's graph, OpenVINO int8"


def peers(
    model: relevance.RelevanceModel, folder: Path, pages: list[tuple[str, list[str]]]
) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield sentence-transformers' cross-encoder of the same size, and its graph in int8; nothing without it."""
    try:
        from sentence_transformers import CrossEncoder
    except ModuleNotFoundError:
        return
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    encoder = model.encoder
    config = type(encoder.body.config)(**{**encoder.body.config.to_dict(), "vocab_size": len(encoder.words)})
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "peer")
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json)
    pad = next(token for token in ("<pad>", "[PAD]") if tokenizer.token_to_id(token) is not None)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, model_input_names=["input_ids", "attention_mask"]
    )
    fast.save_pretrained(folder / "peer")
    peer = CrossEncoder(str(folder / "peer"), max_length=2 * encoder.max_tokens, device="cpu")
    yield CROSS_ENCODER, lambda queries, texts: peer.predict(list(zip(queries, texts, strict=True)), batch_size=32)
    yield CROSS_ENCODER_INT8, _in_int8(folder / "peer", fast, 2 * encoder.max_tokens, pages)


def _in_int8(path: Path, tokenizer: Any, max_length: int, pages: list[tuple[str, list[str]]]) -> Callable[..., object]:
    """Return a cross-encoder's graph in OpenVINO int8."""
    import nncf
    import openvino
    from transformers import AutoModelForSequenceClassification

    def inputs(queries: list[str], documents: list[str]) -> dict[str, Any]:
        options = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "np"}
        return dict(tokenizer(queries, documents, **options))

    whole = AutoModelForSequenceClassification.from_pretrained(path).eval()
    example = {name: torch.from_numpy(one) for name, one in inputs(["a"] * 2, ["b c", "d"]).items()}
    graph = openvino.convert_model(whole, example_input=example)
    calibrating = nncf.Dataset([inputs([query] * len(some), some) for query, some in pages])
    small = nncf.quantize(graph, calibrating, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pages))
    hints = {"INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(small, "CPU", hints)

    def predict(queries: list[str], documents: list[str]) -> None:
        order = sorted(range(len(queries)), key=lambda row: -len(documents[row]))
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            compiled(inputs([queries[row] for row in rows], [documents[row] for row in rows]))

    return predict
