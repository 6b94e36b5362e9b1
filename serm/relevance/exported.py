"""An exported cross-encoder: its graphs in ONNX Runtime or OpenVINO, behind the same ``score``, without torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from serm.contracts import Grade
from serm.errors import UserError
from serm.relevance.interface import Indices, Kind, Scores
from serm.relevance.known import KnownText, KnownTexts
from serm.relevance.packing import Packed, packed
from serm.relevance.saved import limits, prove, verify
from serm.relevance.texts import ReadText, Text, TextPair, read, tokenise

# OpenVINO and nncf send home what is used, and make an id for the user, unless this cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

FAMILY = "exported"
GRAPH = 4
"""The version of the graphs' inputs."""
GRAPHS = ("texts", "pairs")
FILES = {
    "onnx": tuple(f"{name}.onnx" for name in GRAPHS),
    "openvino": tuple(f"{name}.{kind}" for name in GRAPHS for kind in ("xml", "bin")),
}
_FINITE_ROWS = 16_384
Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[np.float32]]]
"""Runs a graph: its inputs by name in, its outputs in their order out."""


class Exported:
    """The graphs of ``serm.relevance.graph`` with the tokenizer, word embeddings and thresholds around them."""

    def __init__(self, path: Path, config: dict[str, Any], version: str, texts: Run, pairs: Run) -> None:
        self.version = version
        self.known: KnownTexts | None = None
        """Where ``read`` and ``score_read`` keep and find what the first graph makes of texts."""
        self.slots = 0
        """Places for pairs' tokens that were computed so far, those of padding too."""
        self.config = config
        self._batch_tokens = int(config["batch_tokens"])
        self._run_texts, self._run_pairs = texts, pairs
        self._words = _embeddings(path / "embeddings.safetensors")
        self._tokenizer = Tokenizer.from_str((path / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config["max_tokens"])
        if self._tokenizer.get_vocab_size() > len(self._words):
            raise UserError(f"{path}: its tokenizer knows more tokens than it has embeddings for.")

    @property
    def frozen(self) -> str:
        """The export: each has a text graph of its own."""
        return self.version

    @property
    def max_tokens(self) -> int:
        """After how many tokens a text is cut."""
        return int(self.config["max_tokens"])

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order."""
        return self.score_read(self.read(queries, documents))

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[TextPair]:
        """Tokenise ``n`` pairs, each distinct text once, and a known one not at all; any thread may."""
        sides = zip(self._read(queries, "query"), self._read(documents, "passage"), strict=True)
        return [TextPair(query, document) for query, document in sides]

    def score_read(self, pairs: Sequence[TextPair]) -> Scores:
        """Score pairs that ``read`` returned, at once; texts that were not known are then."""
        distinct = {text.key: text for pair in pairs for text in (pair.query, pair.document)}
        rows = {key: row for row, key in enumerate(distinct)}
        texts = self._encoded(list(distinct.values()))
        q = np.array([rows[pair.query.key] for pair in pairs], np.int64)
        d = np.array([rows[pair.document.key] for pair in pairs], np.int64)
        scores = np.zeros(len(pairs))
        for batch in packed(np.array([pair.tokens for pair in pairs], np.int64), self._batch_tokens):
            self.slots += batch.text.size
            (scores[batch.chosen],) = self._run_pairs(_pair_inputs(texts, q[batch.chosen], d[batch.chosen], batch))
        reached = (scores[:, None] - np.array(self.config["thresholds"])) / self.config["temperature"]
        reached = 1 / (1 + np.exp(-reached))
        edges = np.concatenate([np.ones((len(scores), 1)), reached, np.zeros((len(scores), 1))], 1)
        distribution = edges[:, :-1] - edges[:, 1:]
        return Scores(distribution @ np.arange(len(Grade), dtype=np.float64), distribution)

    def prepare(self, documents: Sequence[str]) -> None:
        """Make documents known."""
        if self.known is not None:
            self._encoded(list({text.key: text for text in self._read(documents, "passage")}.values()))

    def _read(self, texts: Sequence[str], kind: Kind) -> list[ReadText]:
        return read(texts, kind, self.frozen, self.known, self._tokenised)

    def _tokenised(self, texts: Sequence[str], kind: Kind) -> list[Text]:
        return tokenise(self._tokenizer, texts, kind, self.max_tokens)

    def _encoded(self, texts: Sequence[ReadText]) -> list[KnownText]:
        """Return what the first graph makes of distinct texts; their states in fp16, known or new."""
        found = [text.known or (None if self.known is None else self.known.peek(text.key)) for text in texts]
        new = [row for row, one in enumerate(found) if one is None]
        lengths = np.array([texts[row].tokens for row in new], np.int64)
        for batch in packed(lengths, self._batch_tokens):
            chosen = [new[at] for at in batch.chosen]
            vectors, states = self._run_texts(self._text_inputs([texts[row].ids for row in chosen], batch))
            flat = states.reshape(-1, states.shape[2]).astype(np.float16)
            for at, row in enumerate(chosen):
                text = texts[row]
                known = KnownText(vectors[at].copy(), flat[batch.places[at, : text.tokens]], text.cut)
                found[row] = known
                if self.known is not None:
                    self.known.put(text.key, known)
        return [one for one in found if one is not None]

    def _text_inputs(self, ids: Sequence[Sequence[int]], batch: Packed) -> dict[str, NDArray[Any]]:
        words = np.zeros(batch.text.shape, np.int64)
        words.flat[batch.places[batch.mask]] = np.concatenate(ids)
        return {
            "words": self._words[words].astype(np.float32),
            "text": batch.text,
            "token": batch.token,
            "places": batch.places,
            "mask": batch.mask,
        }


def _pair_inputs(texts: Sequence[KnownText], q: Indices, d: Indices, batch: Packed) -> dict[str, NDArray[Any]]:
    """Return the second graph's inputs for a batch's pairs, of the ``q[i]``-th and the ``d[i]``-th text."""
    used, rows = np.unique(np.concatenate([q, d]), return_inverse=True)
    lengths = np.array([len(texts[text].states) for text in used], np.int64)
    starts = np.cumsum(lengths) - lengths
    q_rows, d_rows = rows[: len(q)], rows[len(q) :]
    column, after = np.arange(batch.mask.shape[1]), lengths[q_rows][:, None]
    states = np.where(column < after, starts[q_rows][:, None] + column, starts[d_rows][:, None] + column - after)
    tokens = np.zeros(batch.text.shape, np.int64)
    tokens.flat[batch.places[batch.mask]] = states[batch.mask]
    return {
        "vectors": np.stack([texts[text].vector for text in used]),
        "states": np.concatenate([texts[text].states for text in used]).astype(np.float32),
        "query_rows": q_rows.astype(np.int64),
        "document_rows": d_rows.astype(np.int64),
        "tokens": tokens,
        "pair": batch.text,
        "places": batch.places,
        "mask": batch.mask,
    }


def read_model(path: Path, config: dict[str, Any], version: str) -> Exported:
    """Read an exported model, after each file's sha256 was checked.

    Raises:
        UserError: a file was changed or is not what its name says, or its graphs or runtime are not known.
    """
    if config.get("graph") != GRAPH:
        raise UserError(f"{path}/config.json: exported by another version of SERM; export the model again.")
    runtime = config["runtime"]
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise UserError(f"{path}/config.json: runtime {runtime!r}, expected {' or '.join(RUNTIMES)}.")
    limits(config, path)
    verify(path, config, [*FILES[runtime], "embeddings.safetensors", "tokenizer.json"])
    model = Exported(path, config, version, *runs(path, runtime))
    prove(model, path, config)
    return model


def runs(path: Path, runtime: str) -> list[Run]:
    """Return what runs the graphs of an export, in the order of ``GRAPHS``."""
    opening, suffix = RUNTIMES[runtime], {"onnx": "onnx", "openvino": "xml"}[runtime]
    return [opening(path / f"{name}.{suffix}") for name in GRAPHS]


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        return list(session.run(None, inputs))

    return run


def _openvino(file: Path) -> Run:
    import openvino

    # Not the CPU plugin's own choice, bf16: what int8 leaves in floating point is small and sensitive.
    hints = {"INFERENCE_NUM_THREADS": _threads(), "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(file, "CPU", hints)

    def run(inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        return list(compiled(inputs).to_tuple())

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
