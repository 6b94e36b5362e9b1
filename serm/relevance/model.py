"""The relevance model: a frozen encoder's cosine as the starting point, and a learned residual on top.

``s(q, d) = alpha * cos(q, d) + r(q, d)`` goes through the ordinal head. Query and document run through the lower
encoder layers apart from each other, so that each distinct text is computed once (as in PreTTR, MacAvaney et al. 2020,
arXiv 2004.14255); copies of the upper layers, fine-tuned, then read both together: ``r`` is a linear function of
their mean state, and zero before training.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel

from serm.atomic import replace_directory
from serm.errors import UserError
from serm.relevance.encoder import (
    CPU,
    Encoded,
    Encoder,
    Indices,
    attention_mask,
    fast_matmul,
    length_batches,
    mean_pool,
    spans,
    unique,
)
from serm.relevance.ordinal import OrdinalHead, expected_grade

FORMAT = 2
CHUNK_PAIRS = 16_384
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Scores:
    """What a model thinks of ``n`` pairs."""

    expected: NDArray[np.float64]
    """[n] expected grade, 0 to 3."""
    distribution: NDArray[np.float64]
    """[n, 4] Pr(grade)."""


class Residual(nn.Module):
    """The trained part: alpha, the upper layers, the linear head and the ordinal head."""

    def __init__(self, layers: nn.ModuleList, dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.alpha = nn.Parameter(torch.tensor(10.0))
        self.ordinal = OrdinalHead()
        self.gradient_checkpointing = False
        """Whether a layer is computed again in the backward pass instead of kept in memory."""

    def forward(self, cosine: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return s [n] for cosines [n], the pairs' states [n, tokens, dim] and their mask [n, tokens]."""
        attention = attention_mask(mask)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, attention, use_reentrant=False)
            else:
                hidden = layer(hidden, attention)
        residual: torch.Tensor = self.head(mean_pool(hidden, mask))
        return self.alpha * cosine + residual.float().squeeze(1)


@dataclass(frozen=True)
class Pairs:
    """Query-document pairs whose frozen part is computed: what ``Residual`` and training start from."""

    cosines: torch.Tensor
    """[n] fp32."""
    queries: Encoded
    documents: Encoded
    query_rows: Indices
    document_rows: Indices

    @property
    def lengths(self) -> Indices:
        """Tokens of each pair [n]."""
        return self.queries.lengths[self.query_rows] + self.documents.lengths[self.document_rows]

    def batch(self, chosen: Indices, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cosines, states and mask of the chosen pairs on ``device``, as ``Residual`` takes them."""
        q, d = self.query_rows[chosen], self.document_rows[chosen]
        q_length, d_length = self.queries.lengths[q], self.documents.lengths[d]
        q_rows, q_mask = spans(self.queries.starts[q], q_length, len(self.queries.states) - 1)
        d_rows, d_mask = spans(self.documents.starts[d], d_length, len(self.documents.states) - 1)
        hidden = torch.cat([self.queries.states[q_rows].float(), self.documents.states[d_rows].float()], 1)
        return self.cosines[chosen].to(device), hidden.to(device), torch.cat([q_mask, d_mask], 1).to(device)


class RelevanceModel:
    """A cross-encoder over query-document pairs with four ordinal grades."""

    def __init__(self, encoder: Encoder, residual: Residual, version: str = "unsaved") -> None:
        self.encoder = encoder
        self.residual = residual.eval()
        self.version = version
        """The first 12 hex digits of a hash of the saved files; ``unsaved`` before."""

    @classmethod
    def from_encoder(cls, encoder: Encoder, layers: int) -> RelevanceModel:
        """Start a model whose score is the encoder's cosine; its top ``layers`` layers can learn a residual."""
        upper = copy.deepcopy(encoder.body.encoder.layer[-layers:]).requires_grad_(True)
        return cls(encoder, Residual(upper, encoder.words.shape[1]))

    @property
    def join(self) -> int:
        """The layer at which query and document meet."""
        return len(self.encoder.body.encoder.layer) - len(self.residual.layers)

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Pairs:
        """Run the frozen part over ``n`` pairs, each distinct text once."""
        distinct_queries, q = unique(queries)
        distinct_documents, d = unique(documents)
        q_encoded = self.encoder.encode(distinct_queries, "query", self.join)
        d_encoded = self.encoder.encode(distinct_documents, "passage", self.join)
        cosines = (q_encoded.vectors[q] * d_encoded.vectors[d]).sum(1)
        return Pairs(cosines, q_encoded, d_encoded, q, d)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order."""
        with torch.inference_mode():
            scores = torch.cat([self.forward(pairs) for pairs in self._chunks(queries, documents)])
            distribution = self.residual.ordinal.distribution(scores)
            return Scores(expected_grade(distribution).numpy(), distribution.numpy())

    def sample(self, queries: Sequence[str], documents: Sequence[str], samples: int, seed: int) -> NDArray[np.float64]:
        """Return expected grades [samples, n] under Monte Carlo dropout (Gal and Ghahramani 2016).

        Only the trained part drops out; the same seed and pairs give the same samples.
        """
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self.residual.train()
            try:
                chunks = self._chunks(queries, documents)
                drawn = [torch.stack([self.forward(pairs) for _ in range(samples)]) for pairs in chunks]
            finally:
                self.residual.eval()
            scores = torch.cat(drawn, 1)
            expected = expected_grade(self.residual.ordinal.distribution(scores.ravel()))
            return expected.reshape(scores.shape).numpy()

    def _chunks(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[Pairs]:
        """Yield the pairs in parts whose states fit in memory; one empty part where there are none."""
        for start in range(0, max(1, len(queries)), CHUNK_PAIRS):
            yield self.pairs(queries[start : start + CHUNK_PAIRS], documents[start : start + CHUNK_PAIRS])

    def forward(self, pairs: Pairs) -> torch.Tensor:
        """Return the scores s [n] of pairs, in length-sorted batches."""
        scores = torch.empty(len(pairs.cosines))
        device = self.residual.alpha.device
        with torch.inference_mode(), fast_matmul(device=device):
            for batch in length_batches(pairs.lengths, self.encoder.batch_tokens):
                scores[batch] = self.residual(*pairs.batch(batch, device)).cpu()
        return scores

    def save(self, path: Path) -> None:
        """Write the model to the directory ``path``, atomically, and set ``version``.

        The frozen parts (embeddings.safetensors, base.safetensors, tokenizer.json) have the same bytes for each model
        on the same base, so that DVC stores them once.
        """
        encoder = self.encoder
        with replace_directory(path) as beside:
            save_file({"words": encoder.words.contiguous()}, beside / "embeddings.safetensors")
            save_file(_tensors(encoder.body), beside / "base.safetensors")
            save_file(_tensors(self.residual), beside / "model.safetensors")
            (beside / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
            config = {
                "format": FORMAT,
                "layers": len(self.residual.layers),
                "max_tokens": encoder.max_tokens,
                "batch_tokens": encoder.batch_tokens,
                "encoder": _encoder_config(encoder.body),
                "sha256": {file.name: _sha256(file) for file in sorted(beside.iterdir())},
            }
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (beside / "config.json").write_text(text, encoding="utf-8")
            for file in beside.iterdir():
                file.chmod(0o644)
        self.version = _version(text)


def load(path: Path) -> RelevanceModel:
    """Load a saved model; its tensors are mapped from disk.

    Raises:
        UserError: there is no model there, it is pickled, or it has another format.
    """
    if not (path / "model.safetensors").exists():
        pickled = [file.name for pattern in _PICKLED for file in sorted(path.glob(pattern))]
        if pickled:
            raise UserError(
                f"{path}: holds pickled weights ({', '.join(pickled)}), which can run code when loaded;"
                " convert them to safetensors."
            )
        raise UserError(f"{path}: no relevance model there (no model.safetensors); run the train step before.")
    text = (path / "config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    if config.get("format") != FORMAT:
        raise UserError(
            f"{path}/config.json: format {config.get('format')!r}, expected {FORMAT}; train the model again."
        )
    missing = [name for name in config["sha256"] if not (path / name).exists()]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is missing; restore it with dvc checkout.")
    model = RelevanceModel.from_encoder(_encoder(path, config), config["layers"])
    model.residual.load_state_dict(load_file(path / "model.safetensors"), assign=True)
    model.version = _version(text)
    return model


_loaded: WeakValueDictionary[str, Encoder] = WeakValueDictionary()


def _encoder(path: Path, config: dict[str, Any]) -> Encoder:
    """Return the frozen encoder; models on the same one share it, as a champion and its challenger do."""
    key = json.dumps({**config, "sha256": {**config["sha256"], "model.safetensors": ""}}, sort_keys=True)
    encoder = _loaded.get(key)
    if encoder is None:
        body: Any = AutoModel.from_config(AutoConfig.for_model(**config["encoder"]))  # type: ignore[no-untyped-call]
        body.embeddings.word_embeddings = body.pooler = None
        body.load_state_dict(load_file(path / "base.safetensors"), assign=True)
        words = load_file(path / "embeddings.safetensors")["words"]
        tokenizer = (path / "tokenizer.json").read_text(encoding="utf-8")
        encoder = _loaded[key] = Encoder(body, words, tokenizer, config["max_tokens"], config["batch_tokens"])
    return encoder


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in sorted(module.state_dict().items())}


def _encoder_config(body: Any) -> dict[str, Any]:
    """Return the transformers config to rebuild the layers from; the word embeddings are not its business."""
    config = body.config.to_diff_dict()
    for name in ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"):
        config.pop(name, None)
    return {**config, "model_type": body.config.model_type, "vocab_size": 1, "pad_token_id": 0}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()[:12]
