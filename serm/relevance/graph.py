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

from serm.relevance.encoder import first_position, mean_pool
from serm.relevance.model import RelevanceModel, attention_of

OPSET = 18


class TextGraph(nn.Module):
    """The encoder."""

    def __init__(self, model: RelevanceModel) -> None:
        super().__init__()
        self.embeddings = model.encoder.body.embeddings
        self.first = first_position(model.encoder.body)
        self.layers = model.encoder.body.encoder.layer
        self.join = model.join

    def forward(
        self,
        words: torch.Tensor,
        text: torch.Tensor,
        token: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the texts' unit vectors [texts, dim], and their states [rows, width, dim].

        Args:
            words: [rows, width, dim] fp32, the word embeddings of packed texts.
            text: [rows, width] int64; this and the others as ``serm.relevance.packing.Packed`` has them.
            token: [rows, width] int64.
            places: [texts, longest] int64.
            mask: [texts, longest] bool.
        """
        positions = {} if self.first is None else {"position_ids": token + self.first}
        hidden = states = self.embeddings(inputs_embeds=words, **positions)
        attention = _attention_bias(text)
        for number, layer in enumerate(self.layers):
            if number == self.join:
                states = hidden
            hidden = layer(hidden, attention)
        return functional.normalize(mean_pool(hidden.flatten(0, 1)[places], mask), dim=1), states


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
        tokens: torch.Tensor,
        pair: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return s [n].

        Args:
            vectors: [texts, dim] fp32, unit norm.
            states: [all tokens, dim] fp32, the texts' states, one text after the other.
            query_rows: [n] int64, the text that is each pair's query.
            document_rows: [n] int64, and its document.
            tokens: [rows, width] int64, where among the states each token of the packed pairs is, a query's first.
            pair: [rows, width] int64, ``text`` of ``Packed``.
            places: [n, longest] int64, as there.
            mask: [n, longest] bool, as there.
        """
        cosine = (vectors[query_rows] * vectors[document_rows]).sum(1)
        hidden = self.residual.upper(states[tokens], _attention_bias(pair))
        return self.residual.score(cosine, mean_pool(hidden.flatten(0, 1)[places], mask))


def _attention_bias(text: torch.Tensor) -> torch.Tensor:
    """Turn each place's text [rows, width] into what attention adds to its logits: [rows, 1, width, width].

    0 within a text, -10,000 between texts, whose exp is 0 in fp32. A bool mask is exported with a search for NaN in
    each layer, for rows that see nothing; here each sees its own text.
    """
    same = attention_of(text)
    return torch.zeros(same.shape).masked_fill(~same, -10_000.0)


def to_onnx(model: RelevanceModel, texts_file: Path, pairs_file: Path) -> None:
    """Write the graphs as one ONNX file each, fp32."""
    dim = model.encoder.words.shape[1]
    rows, width, texts, long = (torch.export.Dim(name) for name in ("rows", "width", "texts", "longest"))
    packed, unpacked = {0: rows, 1: width}, {0: texts, 1: long}

    def of_rows() -> tuple[torch.Tensor, dict[int, Any]]:  # a tensor each: torch takes one given twice for one input
        return torch.zeros(3, 7, dtype=torch.long), packed

    layout: dict[str, tuple[torch.Tensor, dict[int, Any]]] = {
        "places": (torch.zeros(4, 5, dtype=torch.long), unpacked),
        "mask": (torch.ones(4, 5, dtype=torch.bool), unpacked),
    }
    of_texts = {"words": (torch.zeros(3, 7, dim), packed), "text": of_rows(), "token": of_rows()} | layout
    of_pairs = {
        "vectors": (torch.zeros(6, dim), {0: torch.export.Dim("all_texts")}),
        "states": (torch.zeros(12, dim), {0: torch.export.Dim("all_tokens")}),
        "query_rows": (torch.tensor([0, 0, 1, 1]), {0: texts}),
        "document_rows": (torch.tensor([2, 3, 2, 3]), {0: texts}),
        "tokens": of_rows(),
        "pair": of_rows(),
    } | layout
    _write(TextGraph(model), texts_file, of_texts, ["vectors", "states"])
    _write(PairGraph(model), pairs_file, of_pairs, ["score"])


def _write(
    graph: nn.Module, file: Path, inputs: dict[str, tuple[torch.Tensor, dict[int, Any]]], outputs: list[str]
) -> None:
    with _silent(), torch.no_grad():  # as scoring runs the layers, and not as learning does
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
