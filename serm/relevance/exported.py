"""An exported cross-encoder: the graph in ONNX Runtime or OpenVINO, behind the same ``score``, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from serm.contracts import Grade
from serm.errors import UserError
from serm.relevance.interface import CHARACTERS_A_TOKEN, Indices, Scores, length_batches, readable, unique
from serm.relevance.known import KnownTexts
from serm.relevance.saved import limits, prove, verify

FAMILY = "exported"
GRAPH = 2
"""The version of the graph's inputs."""
FILES = {"onnx": ("model.onnx",), "openvino": ("openvino_model.xml", "openvino_model.bin")}
_FINITE_ROWS = 16_384
Run = Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False, slots=True)
class IdPair:
    """A query's and a document's tokens."""

    query: tuple[int, ...]
    document: tuple[int, ...]
    cut: bool
    """Whether the document is longer than what the model reads."""

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return len(self.query) + len(self.document)


class Exported:
    """A graph of ``serm.relevance.graph`` with the tokenizer, word embeddings and thresholds around it."""

    def __init__(self, path: Path, config: dict[str, Any], version: str, run: Run) -> None:
        self.version = version
        self.known: KnownTexts | None = None
        """Not used: the graph computes texts and pairs in one go."""
        self.slots = 0
        """Places for pairs' tokens that were computed so far, those of padding too."""
        self.config = config
        self._run = run
        self._words = _embeddings(path / "embeddings.safetensors")
        self._tokenizer = Tokenizer.from_str((path / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config["max_tokens"])
        if self._tokenizer.get_vocab_size() > len(self._words):
            raise UserError(f"{path}: its tokenizer knows more tokens than it has embeddings for.")

    @property
    def max_tokens(self) -> int:
        """After how many tokens a text is cut."""
        return int(self.config["max_tokens"])

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order."""
        return self.score_read(self.read(queries, documents))

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[IdPair]:
        """Tokenise ``n`` pairs, each distinct text once; any thread may."""
        sides = zip(self._read("query", queries), self._read("passage", documents), strict=True)
        return [IdPair(query, document, cut) for (query, _), (document, cut) in sides]

    def score_read(self, pairs: Sequence[IdPair]) -> Scores:
        """Score pairs that ``read`` returned, at once."""
        scores = np.zeros(len(pairs))
        for rows, inputs in self._batches(pairs):
            self.slots += inputs["pair_mask"].size
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
        return self._batches(self.read(queries, documents))

    def _batches(self, pairs: Sequence[IdPair]) -> list[tuple[Indices, dict[str, NDArray[Any]]]]:
        query_ids, q = _distinct([pair.query for pair in pairs])
        document_ids, d = _distinct([pair.document for pair in pairs])
        lengths = np.array([pair.tokens for pair in pairs], np.int64)
        return [
            (rows, self._inputs(query_ids, document_ids, q[rows], d[rows]))
            for rows in length_batches(lengths, self.config["batch_tokens"])
        ]

    def _read(self, kind: str, texts: Sequence[str]) -> list[tuple[tuple[int, ...], bool]]:
        """Return each text's tokens, and whether it is longer than what the model reads."""
        distinct, rows = unique(texts)
        longest = self.config["max_tokens"]
        whole = [f"{kind}: {readable(text, longest * CHARACTERS_A_TOKEN)}" for text in distinct]
        found = self._tokenizer.encode_batch(whole)
        read = [(tuple(one.ids), len(one) == longest and bool(one.overflowing)) for one in found]
        return [read[row] for row in rows]

    def _inputs(
        self, query_ids: list[tuple[int, ...]], document_ids: list[tuple[int, ...]], q: Indices, d: Indices
    ) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for pairs of the ``q[i]``-th query and the ``d[i]``-th document."""
        (q_texts, q_rows), (d_texts, d_rows) = (np.unique(one, return_inverse=True) for one in (q, d))
        d_rows = d_rows + len(q_texts)
        ids = [query_ids[text] for text in q_texts] + [document_ids[text] for text in d_texts]
        lengths = np.array([len(one) for one in ids], np.int64)
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.zeros(mask.shape, np.int64)
        tokens[mask] = np.concatenate(ids)
        q_length, d_length = lengths[q_rows][:, None], lengths[d_rows][:, None]
        column = np.arange((q_length + d_length).max())
        pair_mask = column < q_length + d_length
        in_query = q_rows[:, None] * len(mask[0]) + column
        in_document = d_rows[:, None] * len(mask[0]) + column - q_length
        return {
            "words": self._words[tokens].astype(np.float32),
            "mask": mask,
            "query_rows": q_rows.astype(np.int64),
            "document_rows": d_rows.astype(np.int64),
            "pair_tokens": np.where(column < q_length, in_query, in_document) * pair_mask,
            "pair_mask": pair_mask,
        }


def _distinct(texts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Indices]:
    rows: dict[tuple[int, ...], int] = {}
    indices = np.array([rows.setdefault(ids, len(rows)) for ids in texts], np.int64)
    return list(rows), indices


def read_model(path: Path, config: dict[str, Any], version: str) -> Exported:
    """Read an exported model, after each file's sha256 was checked.

    Raises:
        UserError: a file was changed or is not what its name says, or its graph or runtime is not known.
    """
    if config.get("graph") != GRAPH:
        raise UserError(f"{path}/config.json: exported by another version of SERM; export the model again.")
    runtime = config["runtime"]
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise UserError(f"{path}/config.json: runtime {runtime!r}, expected {' or '.join(RUNTIMES)}.")
    limits(config, path)
    verify(path, config, [*FILES[runtime], "embeddings.safetensors", "tokenizer.json"])
    model = Exported(path, config, version, RUNTIMES[runtime](path / FILES[runtime][0]))
    prove(model, path, config)
    return model


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
    with safe_open(file, framework="np") as opened:  # which checks the header that is read again below
        found = opened.get_slice("words")
        if found.get_dtype() != "F16" or len(found.get_shape()) != 2:
            raise UserError(f"{file}: words is not an fp16 table; restore it with dvc checkout.")
    with file.open("rb") as binary:
        length = int.from_bytes(binary.read(8), "little")
        header = json.loads(binary.read(length))["words"]
    start = 8 + length + header["data_offsets"][0]
    words: NDArray[np.float16] = np.memmap(file, np.float16, "r", start, tuple(header["shape"]))
    for part in range(0, len(words), _FINITE_ROWS):
        if not np.isfinite(words[part : part + _FINITE_ROWS]).all():
            raise UserError(f"{file}: words holds weights that are not finite (NaN or infinite); train it again.")
    return words
