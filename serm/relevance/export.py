"""Exporting a cross-encoder to ONNX or OpenVINO, at full or lower precision.

Whether the result ranks as the trained model does, ``serm.release.export`` asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from serm.relevance import exported, graph
from serm.relevance.model import RelevanceModel

if TYPE_CHECKING:
    import openvino

Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "int8", "int8-pairs", "int8-weights"]
Texts = tuple[list[str], list[str]]
"""Queries and documents, pair by pair."""

#: Precision -> the graphs whose weights and activations are int8.
CALIBRATED: dict[Precision, tuple[str, ...]] = {"int8": exported.GRAPHS, "int8-pairs": ("pairs",)}
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

    ``calibrating`` are the pairs that ``int8`` and ``int8-pairs`` are calibrated on, in their order; the others do not
    read them.
    """
    config = _write(model, folder, runtime)
    if precision in CALIBRATED:
        _quantise(folder, config, CALIBRATED[precision], *calibrating)
    elif precision == "int8-weights":
        _compress(folder)
    return config


def _write(model: RelevanceModel, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the files of an fp32 export, and return its config without the hashes."""
    head = model.residual.ordinal
    onnx = [folder / f"{name}.onnx" for name in exported.GRAPHS]
    graph.to_onnx(model, *onnx)
    save_file({"words": model.encoder.words.contiguous()}, folder / "embeddings.safetensors")
    (folder / "tokenizer.json").write_text(model.encoder.tokenizer_json, encoding="utf-8")
    if runtime == "openvino":
        import openvino

        for file in onnx:
            openvino.save_model(openvino.Core().read_model(file), file.with_suffix(".xml"), compress_to_fp16=False)
            file.unlink()
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


def opened(folder: Path, config: dict[str, Any]) -> exported.Exported:
    """Return the export in ``folder`` as a model, before it is finished."""
    return exported.Exported(folder, config, "unsaved", *exported.runs(folder, config["runtime"]))


def _quantise(
    folder: Path, config: dict[str, Any], graphs: tuple[str, ...], queries: list[str], documents: list[str]
) -> None:
    """Replace ``graphs`` of an OpenVINO export by int8 ones, calibrated on pairs in their order, a page at a time."""
    import nncf
    import openvino

    given: dict[str, list[dict[str, NDArray[Any]]]] = {name: [] for name in exported.GRAPHS}

    def noting(name: str, run: exported.Run) -> exported.Run:
        def noted(inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
            given[name].append(inputs)
            return run(inputs)

        return noted

    runs = zip(exported.GRAPHS, exported.runs(folder, config["runtime"]), strict=True)
    whole = exported.Exported(folder, config, "unsaved", *(noting(name, run) for name, run in runs))
    for start in range(0, len(queries), CALIBRATION_BATCH):
        page = slice(start, start + CALIBRATION_BATCH)
        whole.score(queries[page], documents[page])
    del whole, runs
    alphas = nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA)
    for name in graphs:
        small = nncf.quantize(
            openvino.Core().read_model(_ir(folder, name)),
            nncf.Dataset(given[name]),
            subset_size=len(given[name]),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )
        _replace(_ir(folder, name), small)


def _compress(folder: Path) -> None:
    """Replace an OpenVINO export by one whose weights are int8."""
    import nncf
    import openvino

    for name in exported.GRAPHS:
        whole: openvino.Model = openvino.Core().read_model(_ir(folder, name))
        _replace(_ir(folder, name), nncf.compress_weights(whole, mode=nncf.CompressWeightsMode.INT8_SYM))


def _ir(folder: Path, name: str) -> Path:
    return folder / f"{name}.xml"


def _replace(file: Path, model: openvino.Model) -> None:
    import openvino

    beside = file.with_stem("beside")  # what is replaced may still be mapped from disk
    openvino.save_model(model, beside, compress_to_fp16=False)
    beside.replace(file)
    beside.with_suffix(".bin").replace(file.with_suffix(".bin"))
