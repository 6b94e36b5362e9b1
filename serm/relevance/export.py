"""Exporting a cross-encoder to ONNX or OpenVINO, at full or lower precision.

Whether the result ranks as the trained model does, ``serm.release.export`` asks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import save_file

from serm.relevance import exported, graph
from serm.relevance.model import RelevanceModel

if TYPE_CHECKING:
    import openvino

os.environ["NNCF_CI"] = "1"  # nncf sends nothing home

Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "int8", "int8-weights"]
Texts = tuple[list[str], list[str]]
"""Queries and documents, pair by pair."""

CALIBRATION_BATCH = 10
"""Pairs in one calibration batch, about a page of results."""
SMOOTH_QUANT_ALPHA = 0.8
"""How much of the activations' outliers goes into the weights (Xiao et al. 2023, arXiv 2211.10438). Chosen on mined
pairs of queries that did not calibrate, by rank correlation with the trained model: 0.984 at 0.5, 0.9975 at 0.7, 0.9981
at 0.8, 0.9950 at nncf's own 0.95 (the emoji world's champion, 2026-11-24)."""


def write(
    model: RelevanceModel, folder: Path, runtime: Runtime, precision: Precision, calibrating: Texts
) -> dict[str, Any]:
    """Write the files of an export into ``folder`` and return its config, without the hashes.

    ``calibrating`` are the pairs that ``int8`` is calibrated on, in their order; the others do not read them.
    """
    config = _write(model, folder, runtime)
    if precision == "int8":
        _quantise(folder, config, *calibrating)
    elif precision == "int8-weights":
        _compress(folder)
    return config


def _write(model: RelevanceModel, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the files of an fp32 export, and return its config without the hashes."""
    head = model.residual.ordinal
    graph.to_onnx(model, folder / "model.onnx")
    save_file({"words": model.encoder.words.contiguous()}, folder / "embeddings.safetensors")
    (folder / "tokenizer.json").write_text(model.encoder.tokenizer_json, encoding="utf-8")
    if runtime == "openvino":
        import openvino

        openvino.save_model(openvino.Core().read_model(folder / "model.onnx"), _ir(folder), compress_to_fp16=False)
        (folder / "model.onnx").unlink()
    return {
        "family": exported.FAMILY,
        "graph": exported.GRAPH,
        "runtime": runtime,
        "model": model.version,
        "thresholds": head.thresholds().double().tolist(),
        "temperature": float(head.temperature.double()),
        "max_tokens": model.encoder.max_tokens,
        "batch_tokens": model.encoder.batch_tokens,
    }


def _ir(folder: Path) -> Path:
    return folder / exported.FILES["openvino"][0]


def opened(folder: Path, config: dict[str, Any]) -> exported.Exported:
    """Return the export in ``folder`` as a model, before it is finished."""
    run = exported.RUNTIMES[config["runtime"]](folder / exported.FILES[config["runtime"]][0])
    return exported.Exported(folder, config, "unsaved", run)


def _quantise(folder: Path, config: dict[str, Any], queries: list[str], documents: list[str]) -> None:
    """Replace an OpenVINO export by its int8 version, calibrated on pairs in their order, a page at a time."""
    import nncf
    import openvino

    inputs = opened(folder, config)
    pages = range(0, len(queries), CALIBRATION_BATCH)
    batches = [
        batch
        for start in pages
        for _, batch in inputs.batches(
            queries[start : start + CALIBRATION_BATCH], documents[start : start + CALIBRATION_BATCH]
        )
    ]
    whole: openvino.Model = openvino.Core().read_model(_ir(folder))
    alphas = nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA)
    small = nncf.quantize(
        whole,
        nncf.Dataset(batches),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
    )
    del whole, inputs
    _replace(folder, small)


def _compress(folder: Path) -> None:
    """Replace an OpenVINO export by one whose weights are int8."""
    import nncf
    import openvino

    whole: openvino.Model = openvino.Core().read_model(_ir(folder))
    _replace(folder, nncf.compress_weights(whole, mode=nncf.CompressWeightsMode.INT8_SYM))


def _replace(folder: Path, model: openvino.Model) -> None:
    import openvino

    beside = _ir(folder).with_stem("beside")  # what is replaced may still be mapped from disk
    openvino.save_model(model, beside, compress_to_fp16=False)
    beside.replace(_ir(folder))
    beside.with_suffix(".bin").replace(_ir(folder).with_suffix(".bin"))
