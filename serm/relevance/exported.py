"""An exported cross-encoder: the graph in ONNX Runtime or OpenVINO, behind the same ``score``, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serm.contracts import Grade
from serm.errors import UserError
from serm.relevance.interface import Indices, Scores, length_batches, unique
from serm.relevance.saved import verify

FAMILY = "exported"
FILES = {"onnx": ("model.onnx",), "openvino": ("openvino_model.xml", "openvino_model.bin")}
Run = Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]


class Exported:
    """A graph of ``serm.relevance.graph`` with the tokenizer, word embeddings and thresholds around it."""

    def __init__(self, path: Path, config: dict[str, Any], version: str, run: Run) -> None:
        self.version = version
        self.config = config
        self._run = run
        self._words = _embeddings(path / "embeddings.safetensors")
        self._tokenizer = Tokenizer.from_str((path / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config["max_tokens"])

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order."""
        scores = np.zeros(len(queries))
        for rows, inputs in self.batches(queries, documents):
            scores[rows] = self._run(inputs)
        reached = (scores[:, None] - np.array(self.config["thresholds"])) / self.config["temperature"]
        reached = 1 / (1 + np.exp(-reached))
        edges = np.concatenate([np.ones((len(scores), 1)), reached, np.zeros((len(scores), 1))], 1)
        distribution = edges[:, :-1] - edges[:, 1:]
        return Scores(distribution @ np.arange(len(Grade), dtype=np.float64), distribution)

    def batches(
        self, queries: Sequence[str], documents: Sequence[str]
    ) -> list[tuple[Indices, dict[str, NDArray[Any]]]]:
        """Return the pairs' rows in batches of similar length, each with the graph's inputs."""
        (query_ids, q), (document_ids, d) = (
            self._tokens("query", queries),
            self._tokens("passage", documents),
        )
        lengths = np.array([len(query_ids[a]) + len(document_ids[b]) for a, b in zip(q, d, strict=True)], np.int64)
        return [
            (rows, {**self._side("query", query_ids, q[rows]), **self._side("document", document_ids, d[rows])})
            for rows in length_batches(lengths, self.config["batch_tokens"])
        ]

    def _tokens(self, kind: str, texts: Sequence[str]) -> tuple[list[list[int]], Indices]:
        distinct, rows = unique(texts)
        return [one.ids for one in self._tokenizer.encode_batch([f"{kind}: {text}" for text in distinct])], rows

    def _side(self, name: str, ids: list[list[int]], chosen: Indices) -> dict[str, NDArray[Any]]:
        distinct, rows = np.unique(chosen, return_inverse=True)
        longest = max(len(ids[row]) for row in distinct)
        tokens = np.zeros((len(distinct), longest), np.int64)
        mask = np.zeros((len(distinct), longest), bool)
        for place, row in enumerate(distinct):
            tokens[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = True
        return {
            f"{name}_words": self._words[tokens].astype(np.float32),
            f"{name}_mask": mask,
            f"{name}_rows": rows.astype(np.int64),
        }


def read(path: Path, config: dict[str, Any], version: str) -> Exported:
    """Read an exported model, after each file's sha256 was checked.

    Raises:
        UserError: a file was changed, or the runtime is not known.
    """
    runtime = config["runtime"]
    if runtime not in RUNTIMES:
        raise UserError(f"{path}/config.json: runtime {runtime!r}, expected {' or '.join(RUNTIMES)}.")
    verify(path, config, [*FILES[runtime], "embeddings.safetensors", "tokenizer.json"])
    return Exported(path, config, version, RUNTIMES[runtime](path / FILES[runtime][0]))


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = session.run(None, inputs)[0]
        return scores

    return run


def _openvino(file: Path) -> Run:
    import openvino

    # Not the CPU plugin's own choice, bf16: what int8 leaves in floating point is small and sensitive.
    hints = {"INFERENCE_NUM_THREADS": _threads(), "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(file, "CPU", hints)

    def run(inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = compiled(inputs)[0]
        return scores

    return run


def _threads() -> int:
    """As torch has it: OMP_NUM_THREADS, else the cores that this process may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


RUNTIMES: dict[str, Callable[[Path], Run]] = {"onnx": _onnx, "openvino": _openvino}


def _embeddings(file: Path) -> NDArray[np.float16]:
    """Map the tensor ``words`` [vocabulary, dim] of a safetensors file, whose numpy reader would copy it."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))["words"]
    start = 8 + length + header["data_offsets"][0]
    words: NDArray[np.float16] = np.memmap(file, np.float16, "r", start, tuple(header["shape"]))
    return words
