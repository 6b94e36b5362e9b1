"""Relevance models: how well a document answers a query, as a distribution over the four grades.

What needs torch is imported when it is first asked for: an exported model is served without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from serm.relevance.interface import Model, Scorer, Scores, document_text
from serm.relevance.loading import load, load_scorer

if TYPE_CHECKING:
    from serm.relevance.bases import load_encoder
    from serm.relevance.encoder import Encoder
    from serm.relevance.model import RelevanceModel

__all__ = [
    "Encoder",
    "Model",
    "RelevanceModel",
    "Scorer",
    "Scores",
    "document_text",
    "load",
    "load_encoder",
    "load_scorer",
]

_WITH_TORCH = {"Encoder": "encoder", "load_encoder": "bases", "RelevanceModel": "model"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
