"""The section ``drift`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serm.settings.section import Count, Section, Share


class DriftSettings(Section):
    """When two windows count as different."""

    sample_searches: Count = 4000
    """Searches of each window that Evidently sees, one impression each, drawn in the engine."""
    column_threshold: Annotated[float, Field(gt=0)] = 0.1
    """A column has drifted from this Evidently distance on (normed Wasserstein or Jensen-Shannon)."""
    text_threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.55
    """The text has drifted when a domain classifier tells the windows apart with at least this ROC AUC."""
    min_new_query_share: Share = 0.02
    """Share of searches, beyond what chance explains, for queries that the reference lacks: news from here on."""
    seed: int = 11
