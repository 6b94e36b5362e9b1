"""A cross-encoder as one graph, for ONNX and OpenVINO.

The graph takes a batch's distinct texts, queries and documents alike, and for each pair the row of either. So the lower
layers, and the whole encoder that the cosine needs, still run once a text and not once a pair, though it is one graph
with nothing to keep between calls. Each layer stands in it once: nncf's SmoothQuant passes over a weight that two
places share, and without it this encoder's outliers leave int8 too few steps for all else. Word embeddings stay
outside, the same fp16 table that the trained model maps from disk: they are two thirds of a multilingual model's
bytes, need no arithmetic, and models in one server share them. The ordinal head stays outside too, in float64.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from serm.relevance.encoder import attention_mask, mean_pool
from serm.relevance.model import RelevanceModel

INPUTS = ("words", "mask", "query_rows", "document_rows", "pair_tokens", "pair_mask")
OUTPUT = "score"
OPSET = 18


class Graph(nn.Module):
    """All layers of a cross-encoder."""

    def __init__(self, model: RelevanceModel) -> None:
        super().__init__()
        self.embeddings = model.encoder.body.embeddings
        self.layers = model.encoder.body.encoder.layer
        self.residual = copy.deepcopy(model.residual).cpu()
        self.join = model.join

    def forward(
        self,
        words: torch.Tensor,
        mask: torch.Tensor,
        query_rows: torch.Tensor,
        document_rows: torch.Tensor,
        pair_tokens: torch.Tensor,
        pair_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return s [n].

        Args:
            words: [texts, tokens, dim] fp32, the texts' word embeddings.
            mask: [texts, tokens] bool, false behind a text's end.
            query_rows: [n] int64, the text that is each pair's query.
            document_rows: [n] int64, and its document.
            pair_tokens: [n, joint] int64, the places of each pair's tokens, the query's first, among all texts' tokens.
            pair_mask: [n, joint] bool, false behind a pair's end.
        """
        vectors, states = self._encode(words, mask)
        cosine = (vectors[query_rows] * vectors[document_rows]).sum(1)
        hidden = self.residual.upper(states.flatten(0, 1)[pair_tokens], attention_mask(pair_mask))
        return self.residual.score(cosine, mean_pool(hidden, pair_mask))

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
    texts, pairs = torch.export.Dim("texts"), torch.export.Dim("pairs")
    tokens = torch.export.Dim("tokens", max=model.encoder.max_tokens)
    joint = torch.export.Dim("joint", max=2 * model.encoder.max_tokens)
    example = (
        torch.zeros(4, 3, dim),
        torch.ones(4, 3, dtype=torch.bool),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([2, 3, 2, 3, 2]),
        torch.zeros(5, 6, dtype=torch.long),
        torch.ones(5, 6, dtype=torch.bool),
    )
    text, pair = {0: texts, 1: tokens}, {0: pairs, 1: joint}
    torch.onnx.export(
        graph,
        example,
        file,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_shapes=(text, text, {0: pairs}, {0: pairs}, pair, pair),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
