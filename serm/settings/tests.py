"""The section ``tests`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serm.settings.section import Count, Section, Seed


class TestSettings(Section):
    """How the rolling test set lives from window to window."""

    __test__ = False  # for pytest, which takes the name for one of its own

    draw: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Queries, new in the window, that `serm evolve` draws for the rolling test set before a cycle; they are never
    mined. 0: the set stays as it is."""
    keep_cycles: Count = 6
    """Cycles after the one that drew it that a query stays in the rolling test set; none leaves while fewer than
    ``evaluation.gate.min_queries`` would be left."""
    sample: Annotated[int, Field(ge=0, le=100_000)] = 20
    """Pairs a cycle that LLM judges graded and people are asked too."""
    seed: Seed = 29
    """Of the draw of queries."""
