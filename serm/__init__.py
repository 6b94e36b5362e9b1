"""SERM keeps a search engine's relevance model true to what people search for now.

``serm.Workspace`` is a workspace as an object; ``serm.score``, ``serm.compare`` and ``serm.fit_clicks`` work on tables
in memory. The rooms behind them are imported when they are first asked for, so that ``import serm`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serm.api import Workspace, compare, fit_clicks, score

__all__ = ["Workspace", "compare", "fit_clicks", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'serm' has no attribute {name!r}")
    return getattr(import_module("serm.api"), name)
