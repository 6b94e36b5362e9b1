"""A cross-encoder as one graph, for ONNX and OpenVINO.

The graph takes a batch's distinct queries and distinct documents, and for each pair the row of either. So the lower
layers, and the whole encoder that the cosine needs, still run once a text and not once a pair, though it is one graph
with nothing to keep between calls. Word embeddings stay outside, the same fp16 table that the trained model maps from
disk: they are two thirds of a multilingual model's bytes, need no arithmetic, and models in one server share them.
The ordinal head stays outside too, in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from serm.relevance.encoder import attention_mask, mean_pool
from serm.relevance.model import RelevanceModel

INPUTS = ("query_words", "query_mask", "document_words", "document_mask", "query_rows", "document_rows")
OUTPUT = "score"
OPSET = 18


class Graph(nn.Module):
    """All layers of a cross-encoder."""

    def __init__(self, model: RelevanceModel) -> None:
        super().__init__()
        self.embeddings = model.encoder.body.embeddings
        self.layers = model.encoder.body.encoder.layer
        self.residual = model.residual
        self.join = model.join

    def forward(
        self,
        query_words: torch.Tensor,
        query_mask: torch.Tensor,
        document_words: torch.Tensor,
        document_mask: torch.Tensor,
        query_rows: torch.Tensor,
        document_rows: torch.Tensor,
    ) -> torch.Tensor:
        """Return s [n] for word embeddings [texts, tokens, dim] fp32, their masks (bool), and rows [n] int64."""
        queries, query_states = self._encode(query_words, query_mask)
        documents, document_states = self._encode(document_words, document_mask)
        cosine = (queries[query_rows] * documents[document_rows]).sum(1)
        hidden = torch.cat([query_states[query_rows], document_states[document_rows]], 1)
        mask = torch.cat([query_mask[query_rows], document_mask[document_rows]], 1)
        return self.residual.score(cosine, mean_pool(self.residual.upper(hidden, attention_mask(mask)), mask))

    def _encode(self, words: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = states = self.embeddings(inputs_embeds=words)
        attention = attention_mask(mask)
        for number, layer in enumerate(self.layers):
            if number == self.join:
                states = hidden
            hidden = layer(hidden, attention)
        return functional.normalize(mean_pool(hidden, mask), dim=1), states


def to_onnx(model: RelevanceModel, file: Path) -> None:
    """Write the graph as one ONNX file, fp32."""
    graph = Graph(model).eval()
    dim = model.encoder.words.shape[1]
    q, d, n = (torch.export.Dim(name) for name in ("queries", "documents", "pairs"))
    q_tokens, d_tokens = (torch.export.Dim(name, max=model.encoder.max_tokens) for name in ("q_tokens", "d_tokens"))
    example = (
        torch.zeros(2, 3, dim),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(3, 4, dim),
        torch.ones(3, 4, dtype=torch.bool),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([0, 1, 2, 0, 1]),
    )
    text: list[Any] = [{0: q, 1: q_tokens}] * 2 + [{0: d, 1: d_tokens}] * 2
    torch.onnx.export(
        graph,
        example,
        file,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_shapes=tuple([*text, {0: n}, {0: n}]),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
