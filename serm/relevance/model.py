"""The relevance model: a frozen encoder's cosine as the starting point, and a learned residual on top.

``s(q, d) = alpha * cos(q, d) + r(q, d)`` goes through the ordinal head. Query and document run through the lower
encoder layers apart from each other, so that each distinct text is computed once (as in PreTTR, MacAvaney et al. 2020,
arXiv 2004.14255); copies of the upper layers, fine-tuned, then read both together: ``r`` is a linear function of
their mean state, and zero before training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from serm.atomic import replace_directory
from serm.errors import UserError
from serm.relevance.bases import read_encoder
from serm.relevance.batches import LENGTH_MULTIPLE
from serm.relevance.device import CPU, device, fast_matmul
from serm.relevance.encoder import Encoder
from serm.relevance.encodings import Encoded
from serm.relevance.interface import Indices, Kind, Scores, length_batches, unique
from serm.relevance.known import KnownText, KnownTexts
from serm.relevance.ordinal import OrdinalHead, expected_grade
from serm.relevance.packing import few, pack, within
from serm.relevance.saved import finish, golden, prove, verify
from serm.relevance.texts import ReadText, TextPair, read
from serm.relevance.weights import assign, tensors
from serm.settings import RelevanceSettings

FAMILY = "cross-encoder"
CHUNK_PAIRS = 16_384


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

    def forward(self, cosine: torch.Tensor, hidden: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return s [n] for cosines [n], packed states [rows, width, dim] and each token's pair [rows, width]."""
        hidden = self.upper(hidden, attention_of(texts))
        return self.score(cosine, mean_of(hidden, texts, len(cosine)))

    def upper(self, hidden: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Run the states [n, tokens, dim] through the layers."""
        for layer in self.layers:
            if not torch.is_grad_enabled():
                hidden = layer(hidden, attention)
            elif self.gradient_checkpointing:
                hidden = checkpoint(_learning, layer, hidden, attention, use_reentrant=False)
            else:
                hidden = _learning(layer, hidden, attention)
        return hidden

    def score(self, cosine: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Return s [n] for cosines [n] and the pairs' mean states [n, dim]."""
        residual: torch.Tensor = self.head(pooled)
        return self.alpha * cosine + residual.float().squeeze(1)


@dataclass(frozen=True)
class EncodedPairs:
    """Query-document pairs whose frozen part is computed: what ``Residual`` and training start from."""

    cosines: torch.Tensor
    """[n] fp32."""
    queries: Encoded
    documents: Encoded
    query_rows: Indices
    document_rows: Indices

    def __getitem__(self, rows: slice | Indices | NDArray[np.bool_]) -> EncodedPairs:
        """Return the pairs of ``rows``, which share the encoded texts."""
        chosen = self.query_rows[rows], self.document_rows[rows]
        return EncodedPairs(self.cosines[rows], self.queries, self.documents, *chosen)

    @property
    def lengths(self) -> Indices:
        """Tokens of each pair [n]."""
        return self.queries.lengths[self.query_rows] + self.documents.lengths[self.document_rows]

    def batch(self, chosen: Indices, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cosines, packed states and each token's pair of the chosen pairs on ``device``, for ``Residual``.

        Few shapes, some places of padding: torch makes its kernels for each shape anew, and keeps them all.
        """
        q, d, lengths = self.query_rows[chosen], self.document_rows[chosen], self.lengths[chosen]
        places, width = pack(lengths, LENGTH_MULTIPLE)
        size = few(int(places.max()) // width + 1) * width
        slots = torch.from_numpy(places)
        pair, place = np.repeat(np.arange(len(chosen)), lengths), within(lengths)
        texts = torch.full((size,), len(chosen))
        texts[slots] = torch.from_numpy(pair)
        hidden = torch.zeros(size, self.queries.states.shape[1])
        after = self.queries.lengths[q][pair]  # the document's tokens stand behind the query's
        of_query = place < after
        for part, side, starts, first in (
            (of_query, self.queries, self.queries.starts[q], 0),
            (~of_query, self.documents, self.documents.starts[d], after[~of_query]),
        ):
            tokens = torch.from_numpy(starts[pair[part]] + place[part] - first)
            hidden[slots[torch.from_numpy(part)]] = side.states[tokens].float()
        hidden = hidden.view(-1, width, hidden.shape[1])
        return self.cosines[chosen].to(device), hidden.to(device), texts.view(-1, width).to(device)


class RelevanceModel:
    """A cross-encoder over query-document pairs with four ordinal grades."""

    def __init__(self, encoder: Encoder, residual: Residual, version: str = "unsaved") -> None:
        self.encoder = encoder
        self.residual = residual.eval()
        self.known: KnownTexts | None = None
        """Where ``read`` and ``score_read`` keep and find texts that were encoded."""
        self.slots = 0
        """Places for pairs' tokens that were computed so far, those of padding too."""
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

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> EncodedPairs:
        """Run the frozen part over ``n`` pairs, each distinct text once."""
        distinct_queries, q = unique(queries)
        distinct_documents, d = unique(documents)
        q_encoded = self.encoder.encode(distinct_queries, "query", self.join)
        d_encoded = self.encoder.encode(distinct_documents, "passage", self.join)
        cosines = (q_encoded.vectors[q] * d_encoded.vectors[d]).sum(1)
        return EncodedPairs(cosines, q_encoded, d_encoded, q, d)

    @property
    def frozen(self) -> str:
        """The encoder, and the layer at which query and document meet: models that have both share what is known."""
        return f"{self.encoder.name}/{self.join}"

    @property
    def max_tokens(self) -> int:
        """After how many tokens a text is cut."""
        return self.encoder.max_tokens

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order."""
        with torch.inference_mode():
            return self.graded(torch.cat([self.forward(pairs) for pairs in self._chunks(queries, documents)]))

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[TextPair]:
        """Tokenise ``n`` pairs, each distinct text once, and a known one not at all; any thread may."""
        sides = zip(self._read(queries, "query"), self._read(documents, "passage"), strict=True)
        return [TextPair(query, document) for query, document in sides]

    def score_read(self, pairs: Sequence[TextPair]) -> Scores:
        """Score pairs that ``read`` returned, at once; texts that were not known are then."""
        with torch.inference_mode():
            # Both sides in one run: a query alone would take as many calls of the layers as a page of documents.
            texts, rows = self._encoded([*(pair.query for pair in pairs), *(pair.document for pair in pairs)])
            q, d = rows[: len(pairs)], rows[len(pairs) :]
            cosines = (texts.vectors[q] * texts.vectors[d]).sum(1)
            return self.graded(self.forward(EncodedPairs(cosines, texts, texts, q, d)))

    def prepare(self, documents: Sequence[str]) -> None:
        """Make documents known."""
        if self.known is not None and documents:
            with torch.inference_mode():
                self._encoded(self._read(documents, "passage"))

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        """Score pairs whose frozen part is computed, by this model or another one on the same encoder and layers."""
        with torch.inference_mode():
            return self.graded(self.forward(pairs))

    def graded(self, scores: torch.Tensor) -> Scores:
        """Return what the scores s [n] that ``forward`` gave say of the grades."""
        distribution = self.residual.ordinal.distribution(scores.to(self.residual.alpha.device)).cpu()
        return Scores(expected_grade(distribution).numpy(), distribution.numpy())

    def _read(self, texts: Sequence[str], kind: Kind) -> list[ReadText]:
        return read(texts, kind, self.frozen, self.known, self.encoder.read)

    def _encoded(self, texts: Sequence[ReadText]) -> tuple[Encoded, Indices]:
        """Return what the frozen part makes of the distinct ones of ``texts``, and each text's row there."""
        distinct = {text.key: text for text in texts}
        found = {key: text.known or (self.known and self.known.peek(key)) for key, text in distinct.items()}
        new = [key for key, known in found.items() if not known]
        encoded = self.encoder.run([distinct[key].ids for key in new], self.join)
        for row, key in enumerate(new):
            tokens = slice(encoded.starts[row], encoded.starts[row] + encoded.lengths[row])
            known = KnownText(encoded.vectors[row].clone(), encoded.states[tokens].clone(), distinct[key].cut)
            found[key] = known
            if self.known is not None:
                self.known.put(key, known)
        every = [known for known in found.values() if known]
        lengths = np.array([len(known.states) for known in every], np.int64)
        rows = {key: row for row, key in enumerate(found)}
        states = torch.cat([torch.as_tensor(known.states) for known in every])  # numpy's where a file had them
        vectors = torch.stack([torch.as_tensor(known.vector) for known in every])
        return Encoded(vectors, states, lengths), np.array([rows[text.key] for text in texts], np.int64)

    def sample(self, queries: Sequence[str], documents: Sequence[str], samples: int, seed: int) -> NDArray[np.float64]:
        """Return expected grades [samples, n] under Monte Carlo dropout (Gal and Ghahramani 2016).

        Only the trained part drops out, as its base learned to bear; fine-tuning leaves dropout off. The same seed and
        pairs give the same samples.
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
            return self.graded(scores.ravel()).expected.reshape(scores.shape)

    def _chunks(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[EncodedPairs]:
        """Yield the pairs in parts whose states fit in memory; one empty part where there are none."""
        for start in range(0, max(1, len(queries)), CHUNK_PAIRS):
            yield self.pairs(queries[start : start + CHUNK_PAIRS], documents[start : start + CHUNK_PAIRS])

    def forward(self, pairs: EncodedPairs) -> torch.Tensor:
        """Return the scores s [n] of pairs, in length-sorted batches."""
        scores = torch.empty(len(pairs.cosines))
        at = self.residual.alpha.device
        with torch.inference_mode(), fast_matmul(device=at):
            for batch in length_batches(pairs.lengths, self.encoder.batch_tokens):
                cosines, hidden, texts = pairs.batch(batch, at)
                self.slots += texts.numel()
                scores[batch] = self.residual(cosines, hidden, texts).cpu()
        return scores

    def save(self, path: Path) -> None:
        """Write the model to the directory ``path``, atomically, and set ``version``.

        The frozen parts (embeddings.safetensors, base.safetensors, tokenizer.json) have the same bytes for each model
        on the same base, so that DVC stores them once.
        """
        with replace_directory(path) as beside:
            config = self.encoder.save(beside)
            save_file(tensors(self.residual), beside / "model.safetensors")
            config |= {"family": FAMILY, "layers": len(self.residual.layers), "golden": golden(self)}
            self.version = finish(beside, config)


def read_model(
    path: Path, config: dict[str, Any], version: str, kept: RelevanceSettings | None = None
) -> RelevanceModel:
    """Read a saved cross-encoder; its tensors are mapped from disk, after each file's sha256 was checked.

    Raises:
        UserError: a file was changed, or is not what its name says.
    """
    verify(path, config, ["model.safetensors"])
    encoder = read_encoder(path, config, kept)
    if not isinstance(config["layers"], int) or not 1 <= config["layers"] <= len(encoder.body.encoder.layer):
        raise UserError(f"{path}/config.json: layers is not 1 to the encoder's {len(encoder.body.encoder.layer)}.")
    model = RelevanceModel.from_encoder(encoder, config["layers"])
    assign(model.residual, path / "model.safetensors")
    model.version = version
    if not model.residual.ordinal.temperature > 0:
        raise UserError(f"{path / 'model.safetensors'}: its temperature is not above 0; train it again.")
    model.residual.to(device())
    prove(model, path, config)
    return model


def _learning(layer: nn.Module, hidden: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Run a layer whose gradients are asked for.

    Of a CPU's kernels of attention the plain one: on short packed texts training with the fused one takes twice as
    long.
    """
    with sdpa_kernel(SDPBackend.MATH) if hidden.device.type == "cpu" else nullcontext():
        found: torch.Tensor = layer(hidden, attention)
    return found


def attention_of(texts: torch.Tensor) -> torch.Tensor:
    """Return who attends to whom [rows, 1, width, width] for the number of each token's text [rows, width]."""
    return (texts[:, :, None] == texts[:, None, :])[:, None]


def mean_of(hidden: torch.Tensor, texts: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean over each text's tokens [count, dim] fp32; a text numbered ``count`` is padding."""
    flat, rows = texts.flatten(), hidden.float().flatten(0, 1)
    total = torch.zeros(count + 1, rows.shape[1], device=rows.device).index_add(0, flat, rows)
    sizes = torch.bincount(flat, minlength=count + 1)
    return total[:count] / sizes[:count, None]
