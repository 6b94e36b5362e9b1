"""The section ``clicks`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serm.settings.section import Count, Positive, Section


class ClickSettings(Section):
    """The click model, which takes the position out of clicks."""

    model: Literal["auto", "pbm", "ubm", "dbn", "sdbn"] = "auto"
    """Position-based, user browsing, dynamic Bayesian network or its simplified form; ``auto`` takes the one with the
    lowest perplexity on held-out pages."""
    iterations: Count = 50
    """Of EM, at most."""
    tolerance: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """EM ends when an iteration gains fewer nats an impression."""
    prior_clicks: Positive | None = None
    """Clicks that each pair starts with, so that a rare one stays near the mean; null: learnt from the log."""
    prior_skips: Positive | None = None
    """The same of impressions that were examined and not clicked."""
    max_impressions: Count = 10_000_000
    """Held in memory at once (about 150 bytes each); of a longer window, how users browse is learnt from a part."""

    @model_validator(mode="after")
    def _whole(self) -> ClickSettings:
        if (self.prior_clicks is None) != (self.prior_skips is None):
            raise ValueError("prior_clicks and prior_skips are given together, or neither")
        return self
