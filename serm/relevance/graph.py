"""A cross-encoder as two graphs, for ONNX and OpenVINO: one over texts, one over pairs of them.

The first computes what a text is on its own, whatever it is paired with: the vector that the cosine needs, and the
states as they enter the layer at which query and document meet. So the lower layers run once a text and not once a
pair, and for a text that a server keeps not at all. Each layer stands in one place: nncf's SmoothQuant passes over a
weight that two places share, and without it this encoder's outliers leave int8 too few steps for all else. Word
embeddings stay outside, the same fp16 table that the trained model maps from disk: they are two thirds of a
multilingual model's bytes, need no arithmetic, and models in one server share them. The ordinal head stays outside
too, in float64.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from serm.relevance.encoder import mean_pool
from serm.relevance.model import RelevanceModel

OPSET = 18


class TextGraph(nn.Module):
    """The encoder."""

    def __init__(self, model: RelevanceModel) -> None:
        super().__init__()
        self.embeddings = model.encoder.body.embeddings
        self.layers = model.encoder.body.encoder.layer
        self.join = model.join

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the texts' unit vectors [texts, dim], and their states [texts, tokens, dim].

        Args:
            words: [texts, tokens, dim] fp32, the texts' word embeddings.
            mask: [texts, tokens] bool, false behind a text's end.
        """
        hidden = states = self.embeddings(inputs_embeds=words)
        attention = _attention_bias(mask)
        for number, layer in enumerate(self.layers):
            if number == self.join:
                states = hidden
            hidden = layer(hidden, attention)
        return functional.normalize(mean_pool(hidden, mask), dim=1), states


class PairGraph(nn.Module):
    """The trained part, but for the ordinal head."""

    def __init__(self, model: RelevanceModel) -> None:
        super().__init__()
        self.residual = copy.deepcopy(model.residual).cpu()

    def forward(
        self,
        vectors: torch.Tensor,
        states: torch.Tensor,
        query_rows: torch.Tensor,
        document_rows: torch.Tensor,
        pair_tokens: torch.Tensor,
        pair_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return s [n].

        Args:
            vectors: [texts, dim] fp32, unit norm.
            states: [all tokens, dim] fp32, the texts' states, one text after the other.
            query_rows: [n] int64, the text that is each pair's query.
            document_rows: [n] int64, and its document.
            pair_tokens: [n, joint] int64, the places of each pair's tokens, the query's first, among the states.
            pair_mask: [n, joint] bool, false behind a pair's end.
        """
        cosine = (vectors[query_rows] * vectors[document_rows]).sum(1)
        hidden = self.residual.upper(states[pair_tokens], _attention_bias(pair_mask))
        return self.residual.score(cosine, mean_pool(hidden, pair_mask))


def _attention_bias(mask: torch.Tensor) -> torch.Tensor:
    """Turn a token mask [n, tokens] into what attention adds to its logits: [n, 1, 1, tokens], 0 or -10,000.

    A bool mask is exported with a search for NaN in each layer, for rows that see nothing; here each sees its own
    text, and without the search int8 scores long documents about 1.1 times as fast. exp(-10,000) is 0 in fp32.
    """
    return torch.zeros(mask.shape).masked_fill(~mask, -10_000.0)[:, None, None, :]


def to_onnx(model: RelevanceModel, texts_file: Path, pairs_file: Path) -> None:
    """Write the graphs as one ONNX file each, fp32."""
    dim, longest = model.encoder.words.shape[1], model.encoder.max_tokens
    texts, pairs = torch.export.Dim("texts"), torch.export.Dim("pairs")
    tokens, joint = torch.export.Dim("tokens", max=longest), torch.export.Dim("joint", max=2 * longest)
    text, pair = {0: texts, 1: tokens}, {0: pairs, 1: joint}
    of_texts = {"words": (torch.zeros(4, 3, dim), text), "mask": (torch.ones(4, 3, dtype=torch.bool), text)}
    of_pairs = {
        "vectors": (torch.zeros(4, dim), {0: texts}),
        "states": (torch.zeros(12, dim), {0: torch.export.Dim("all_tokens")}),
        "query_rows": (torch.tensor([0, 0, 1, 1, 1]), {0: pairs}),
        "document_rows": (torch.tensor([2, 3, 2, 3, 2]), {0: pairs}),
        "pair_tokens": (torch.zeros(5, 6, dtype=torch.long), pair),
        "pair_mask": (torch.ones(5, 6, dtype=torch.bool), pair),
    }
    _write(TextGraph(model), texts_file, of_texts, ["vectors", "states"])
    _write(PairGraph(model), pairs_file, of_pairs, ["score"])


def _write(
    graph: nn.Module, file: Path, inputs: dict[str, tuple[torch.Tensor, dict[int, Any]]], outputs: list[str]
) -> None:
    with _silent():
        torch.onnx.export(
            graph.eval(),
            tuple(example for example, _ in inputs.values()),
            file,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(shape for _, shape in inputs.values()),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Keep from a user what torch's exporter says of itself: operators of vision, names of axes that it merges."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
