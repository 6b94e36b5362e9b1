"""The export step: a cross-encoder for ONNX or OpenVINO, refused where it does not rank as the trained model does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory
from serm.errors import UserError
from serm.evaluation import pools
from serm.evaluation.measures import ndcg
from serm.pairs.documents import join
from serm.relevance import RelevanceModel, Scorer, document_text, load
from serm.relevance.export import CALIBRATED, Precision, Runtime, opened, write
from serm.relevance.saved import finish, golden
from serm.settings import EngineSettings
from serm.step import Figures, step

MAX_DIFFERENCE = 0.003
"""Of mean NDCG@10 on the test queries, either way; and of the rank correlation from 1."""
MIN_PAIRS = 3
"""Judged test pairs below which a rank correlation says nothing."""
CALIBRATION_PAIRS = 1000


@step
def export(
    model: Path | str,
    mined: Path,
    tests: Path,
    validated: Path,
    out: Path,
    runtime: Runtime = "openvino",
    precision: Precision = "fp32",
) -> Figures:
    """Export a trained cross-encoder and check the result against it on the test sets.

    ``int8`` is nncf's post-training quantisation of weights and activations, calibrated on mined pairs; ``int8-pairs``
    quantises only the layers that read query and document together, which are all that a known document costs;
    ``int8-weights`` keeps activations in floating point and needs no calibration. Only OpenVINO has them here.

    Args:
        model: the trained model: a directory, or what ``serm.relevance.location`` knows.
        mined: the mine step's output; ``mined/pairs`` calibrate ``int8`` and ``int8-pairs``, else they are not read.
        tests: the test sets, as ``serm.pairs.test_sets`` says; no model trains on them.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes the exported model's directory, which ``serm.relevance.load`` reads.
        runtime: what runs it.
        precision: of the layers.

    Returns:
        Figures: pairs and queries checked, ``rank_correlation`` (Spearman, over all pairs' expected grades), mean
        NDCG@10 of both, their difference, and the files' megabytes.

    Raises:
        UserError: an input is missing, the model is no cross-encoder, or the exported one differs by more than
            ``MAX_DIFFERENCE``: then nothing is written.
    """
    if runtime == "onnx" and precision != "fp32":
        raise UserError(f"{precision} is exported for OpenVINO; take --runtime openvino, or --precision fp32.")
    _installed(runtime, precision)
    # What can be wrong with the inputs is found in seconds here, and not after minutes of calibration.
    pool = _pool(tests, validated)
    calibrating = _mined_texts(mined, validated) if precision in CALIBRATED else ([], [])
    trained = load(model)
    if not isinstance(trained, RelevanceModel):
        raise UserError(f"{model}: a {type(trained).__name__}; only a cross-encoder can be exported.")
    with replace_directory(out) as beside:
        config = write(trained, beside, runtime, precision, calibrating)
        copy = opened(beside, config)
        check = _check(trained, copy, pool)
        finish(beside, {**config, "precision": precision, "check": check, "golden": golden(copy)})
        megabytes = sum(file.stat().st_size for file in beside.iterdir()) / 1e6
    return {"runtime": runtime, "precision": precision, **check, "megabytes": round(megabytes, 1)}


def _mined_texts(mined: Path, validated: Path) -> tuple[list[str], list[str]]:
    """Return the queries and documents of at most ``CALIBRATION_PAIRS`` mined pairs, evenly spread, by query."""
    pairs = contracts.read(mined / "pairs", contracts.MINED_PAIRS).select(["locale", "query", "doc_id"])
    pairs = pairs.sort_by([(name, "ascending") for name in ("query", "locale", "doc_id")])
    with engines.connect(EngineSettings()) as engine:
        pairs = join(engine, pairs, mined / "pairs", validated / "documents", ("title", "body")).pairs
    if not pairs.num_rows:
        raise UserError(f"{mined / 'pairs'}: no mined pair to calibrate int8 on.")
    chosen = np.unique(np.linspace(0, pairs.num_rows - 1, CALIBRATION_PAIRS).round().astype(np.int64))
    found = pairs.take(pa.array(chosen))
    both = zip(found["title"].to_pylist(), found["body"].to_pylist(), strict=True)
    return found["query"].to_pylist(), [document_text(*one) for one in both]


def _installed(runtime: Runtime, precision: Precision) -> None:
    """Raise ``ModuleNotFoundError`` for the first package that a later step of the export would miss."""
    needed = ["onnx", "onnxscript", "scipy", "ir_measures", "onnxruntime" if runtime == "onnx" else "openvino"]
    for name in [*needed, *([] if precision == "fp32" else ["nncf"])]:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _pool(tests: Path, validated: Path) -> pa.Table:
    """Return the judged pairs of the test sets, set by set and query by query, with the documents' text.

    Raises:
        UserError: a dataset is missing, its documents are not in the catalogue, or there are too few pairs to compare.
    """
    with engines.connect(EngineSettings()) as engine:
        pool = pools.judged(engine, tests, validated).pairs
    if pool.num_rows < MIN_PAIRS:
        raise UserError(
            f"{tests}: {pool.num_rows} judged pairs to compare the export on, at least {MIN_PAIRS} are needed."
        )
    return pool


def _check(trained: Scorer, copy: Scorer, pool: pa.Table) -> dict[str, float]:
    """Return how near ``copy`` ranks to ``trained`` on the test sets' pairs.

    Raises:
        UserError: not near enough.
    """
    from scipy.stats import spearmanr

    texts = pool["query"].to_pylist(), pool["text"].to_pylist()
    scores = [one.score(*texts).expected for one in (trained, copy)]
    groups, grades = _groups(pool), pool["grade"].to_numpy().astype(np.int64)
    before, after = (float(ndcg(groups, grades, one, (10,), seed=0).mean()) for one in scores)
    correlation = float(spearmanr(*scores).statistic)
    if not (1 - correlation <= MAX_DIFFERENCE and abs(after - before) <= MAX_DIFFERENCE):
        raise UserError(
            f"Not exported: on {pool.num_rows:,} test pairs the rank correlation with the trained model is"
            f" {correlation:.4f} (at least {1 - MAX_DIFFERENCE}) and NDCG@10 goes from {before:.4f} to {after:.4f}"
            f" (at most {MAX_DIFFERENCE} apart); export it with less loss: --precision int8-weights or fp32."
        )
    return {
        "pairs": pool.num_rows,
        "queries": int(groups.max()) + 1,
        "rank_correlation": round(correlation, 5),
        "ndcg_10": round(after, 4),
        "ndcg_10_trained": round(before, 4),
        "ndcg_10_difference": round(after - before, 4),
    }


def _groups(pool: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    names: Sequence[Any] = list(
        zip(*(pool[name].to_pylist() for name in ("set", "documents", "locale", "query")), strict=True)
    )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)
