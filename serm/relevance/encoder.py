"""The frozen text encoder: one unit vector for each text, and its tokens' states at any layer.

Word embeddings are the bulk of a multilingual encoder and are never trained here. They stay outside the
transformer as one fp16 table, which a saved model maps from disk, so that only the rows in use cost memory.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from serm.relevance.batches import LENGTH_MULTIPLE, STEADY_TOKENS, longest_batches, steady_batches
from serm.relevance.device import device, fast_matmul, has_bf16
from serm.relevance.encodings import Encoded, Encodings, joined
from serm.relevance.interface import Indices, Kind, unique
from serm.relevance.known import key_of
from serm.relevance.texts import Text, tokenise
from serm.relevance.weights import tensors
from serm.settings import RelevanceSettings

_numbers = itertools.count()


class Encoder:
    """A frozen BERT-like encoder with E5's conventions: prefixes, mean pooling, unit norm (arXiv 2212.03533)."""

    def __init__(
        self,
        body: Any,
        words: torch.Tensor,
        tokenizer: str,
        max_tokens: int,
        batch_tokens: int,
        kept: RelevanceSettings | None = None,
    ) -> None:
        """Take over ``body`` (a transformers model), its word embeddings [vocabulary, dim] and tokenizer.json.

        The tokenizer comes as JSON text and is saved as such: reading and writing it moves its numbers a little.
        With ``kept``, whose ``cache`` and ``cache_mb`` are read, a text's bits do not depend on what else is encoded,
        and encodings are kept on disk; without, small batches are as small as they are, which is faster.
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
        self.name = f"encoder {next(_numbers)}"
        """One that was saved is named by its files' hashes, in each process alike; another one only in this process."""
        self._kept = kept
        self._by_threads: dict[int, Encodings] = {}
        self._last: dict[Kind, tuple[tuple[int, list[str]], Encoded]] = {}

    @property
    def positions(self) -> int | None:
        """How many tokens of a text it has places for; None: for any number."""
        return positions(self.body)

    def embed(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """Return unit vectors [n, dim] for ``texts``; each distinct text is computed once."""
        distinct, rows = unique(texts)
        return cast("NDArray[np.float32]", self._encode(distinct, kind, None).vectors.numpy()[rows])

    def encode(self, texts: list[str], kind: Kind, layer: int) -> Encoded:
        """Encode distinct ``texts``, with their states as they enter ``layer``.

        The last result of each kind is kept: two models on one encoder often score the same pairs.
        """
        asked = (layer, texts)
        if kind not in self._last or self._last[kind][0] != asked:
            self._last[kind] = (asked, self._encode(texts, kind, layer))
        return self._last[kind][1]

    def _encode(self, texts: list[str], kind: Kind, layer: int | None) -> Encoded:
        """Encode distinct ``texts``, those that are not kept on disk."""
        encodings = self._encodings()
        if encodings is None:
            return self._compute(texts, kind, layer, self._kept is not None)
        keys = [key_of(kind, text) for text in texts]
        parts = encodings.find(keys, layer)
        is_missing = np.ones(len(texts), bool)
        for places, _ in parts:
            is_missing[places] = False
        missing = np.flatnonzero(is_missing)
        if len(missing):
            made = self._compute([texts[place] for place in missing], kind, layer, steady=True)
            encodings.add([keys[place] for place in missing], made, layer)
            parts.append((missing, made))
        return joined(parts, len(texts), self.words.shape[1])

    def is_finite(self, texts: list[str]) -> bool:
        """Whether all numbers of the texts' vectors are."""
        return bool(torch.isfinite(self._compute(texts, "query", None, steady=False).vectors).all())

    def read(self, texts: Sequence[str], kind: Kind) -> list[Text]:
        """Tokenise ``texts``; several threads may at once."""
        return tokenise(self.tokenizer, texts, kind, self.max_tokens)

    def _compute(self, texts: list[str], kind: Kind, layer: int | None, steady: bool) -> Encoded:
        return self.run([text.ids for text in self.read(texts, kind)], layer, steady)

    @torch.inference_mode()
    def run(self, ids: list[list[int]], layer: int | None, steady: bool = False) -> Encoded:
        """Run tokenised texts through the layers; ``steady`` is as ``steady_batches`` says.

        With a ``layer`` their states as they enter it are there too.
        """
        lengths = np.array([len(i) for i in ids], np.int64)
        starts = np.cumsum(lengths) - lengths
        dim = self.words.shape[1]
        vectors = torch.empty(len(ids), dim)
        states = torch.zeros((0 if layer is None else int(lengths.sum())) + 1, dim, dtype=torch.half)
        flat = torch.tensor([i for one in ids for i in one] + [0])
        at = device()
        batches = steady_batches(lengths) if steady else longest_batches(lengths, self.batch_tokens)
        with fast_matmul(device=at):
            for batch, size, width in batches:
                width = max(int(lengths[batch].max()), min(width, self.positions or width))  # padding has no place
                filled = np.resize(batch, size)  # with the batch's own texts, again
                rows, mask = spans(starts[filled], lengths[filled], len(flat) - 1, width)
                hidden = self._body.embeddings(inputs_embeds=self.words[flat[rows]].to(at, self.body.dtype))
                there = mask.to(at)
                for number, block in enumerate(self._body.encoder.layer):
                    if number == layer:
                        states[rows[mask]] = hidden[there].half().cpu()
                    hidden = block(hidden, attention_mask(there))
                vectors[filled] = functional.normalize(mean_pool(hidden, there), dim=1).cpu()
        return Encoded(vectors, states, lengths if layer is not None else np.zeros_like(lengths))

    @cached_property
    def _body(self) -> Any:
        """The layers to compute with: where matrices are multiplied in bf16, cast to it once and not in each batch."""
        if not has_bf16(device()):
            return self.body
        body = copy.deepcopy(self.body).to(device())
        for module in body.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
        return body

    def _encodings(self) -> Encodings | None:
        """Return where the encodings are that this process would compute; with more threads other sums are made."""
        if self._kept is None or not self._kept.cache_mb:
            return None
        threads = torch.get_num_threads()
        if threads not in self._by_threads:
            version, dim = f"{self._fingerprint}-{threads}", self.words.shape[1]
            self._by_threads[threads] = Encodings(self._kept.cache, self._kept.cache_mb, version, dim)
        return self._by_threads[threads]

    @cached_property
    def _fingerprint(self) -> str:
        """A hash of all else that an encoding's bits depend on, the machine's kernels included."""
        digest = hashlib.sha256(self.tokenizer_json.encode())
        for name, tensor in {**tensors(self.body), "words": self.words}.items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data.cast("B"))
        at = device()
        chip = torch.backends.cpu.get_cpu_capability() if at.type == "cpu" else torch.cuda.get_device_name(at)
        machine = (torch.__version__, chip, has_bf16(at))
        digest.update(repr((self.max_tokens, STEADY_TOKENS, LENGTH_MULTIPLE, *machine)).encode())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the encoder's files into ``folder`` and return what else ``read_encoder`` needs."""
        save_file({"words": self.words.contiguous()}, folder / "embeddings.safetensors")
        save_file(tensors(self.body), folder / "base.safetensors")
        (folder / "tokenizer.json").write_text(self.tokenizer_json, encoding="utf-8")
        return {
            "max_tokens": self.max_tokens,
            "batch_tokens": self.batch_tokens,
            "encoder": _encoder_config(self.body),
        }


def positions(body: Any) -> int | None:
    """Return how many tokens a BERT-like model has places for; None where it has no table of them."""
    first = first_position(body)
    return None if first is None else int(body.embeddings.position_embeddings.num_embeddings) - first


def first_position(body: Any) -> int | None:
    """Return the row of a BERT-like model's table of places that a text's first token has; None without such a table.

    RoBERTa's kin count from behind the padding's place on.
    """
    table = getattr(body.embeddings, "position_embeddings", None)
    if table is None:
        return None
    return 0 if table.padding_idx is None else int(table.padding_idx) + 1


def _encoder_config(body: Any) -> dict[str, Any]:
    """Return the transformers config to rebuild the layers from; the word embeddings are not its business."""
    config = body.config.to_diff_dict()
    for name in ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"):
        config.pop(name, None)
    return {**config, "model_type": body.config.model_type, "vocab_size": 1, "pad_token_id": 0}


def spans(starts: Indices, lengths: Indices, padding: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for texts of a batch the rows of their tokens [n, width], ``padding`` beyond the end, and the mask."""
    columns = np.arange(width)
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
