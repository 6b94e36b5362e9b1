"""Several models on the same pairs: those on one frozen encoder read each text once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from serm.relevance.interface import Scores
from serm.relevance.model import CHUNK_PAIRS, RelevanceModel

if TYPE_CHECKING:
    from serm.relevance.interface import Scorer


def score_all(models: Mapping[str, Scorer], queries: Sequence[str], documents: Sequence[str]) -> dict[str, Scores]:
    """Return each model's scores of ``n`` pairs, as its own ``score`` gives them, to the bit."""
    found: dict[str, Scores] = {}
    for name, model in models.items():
        if name in found:
            continue
        alike = {other: one for other, one in models.items() if other not in found and _shares(model, one)}
        found |= _scored(alike, queries, documents) if alike else {name: model.score(queries, documents)}
    return found


def _shares(one: Scorer, other: Scorer) -> bool:
    """Whether both read texts with the same frozen layers."""
    if not (isinstance(one, RelevanceModel) and isinstance(other, RelevanceModel)):
        return False
    return one.encoder is other.encoder and one.join == other.join


def _scored(models: Mapping[str, Scorer], queries: Sequence[str], documents: Sequence[str]) -> dict[str, Scores]:
    cross = {name: model for name, model in models.items() if isinstance(model, RelevanceModel)}
    first, *_ = cross.values()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in cross}
    with torch.inference_mode():
        for start in range(0, max(1, len(queries)), CHUNK_PAIRS):
            pairs = first.pairs(queries[start : start + CHUNK_PAIRS], documents[start : start + CHUNK_PAIRS])
            for name, model in cross.items():
                parts[name].append(model.forward(pairs))
        return {name: model.graded(torch.cat(parts[name])) for name, model in cross.items()}
