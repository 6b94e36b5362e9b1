"""The section ``clicks`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from serm.settings.section import Count, Positive, RegisteredNames, Section

CLICK_MODELS = ("pbm", "ubm", "sdbn", "dbn")
"""SERM's own, simplest first."""


class ClickSettings(Section):
    """The click model, which takes the position out of clicks."""

    model: str = "auto"
    """Position-based (``pbm``), user browsing (``ubm``), dynamic Bayesian network (``dbn``) or its simplified form
    (``sdbn``), or one of ``models``; ``auto`` takes the one of all with the lowest perplexity on held-out pages."""
    models: RegisteredNames = ()
    """Click models of other packages (entry points of ``serm.click_models``)."""
    satisfied_seconds: Positive = 30.0
    """Dwell time from which a click counts as satisfied, and at which engagement is a half. 30 seconds is the usual
    mark (Fox et al., "Evaluating implicit measures to improve web search", TOIS 2005)."""
    per_user: Count = 3
    """Impressions of a pair that count of one user, the first of the window: a robot that searches 100,000 times says
    no more than a busy person."""
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
        if self.model not in (known := ("auto", *CLICK_MODELS, *self.models)):
            raise ValueError(f"model {self.model!r} is none of {', '.join(known)}; models names other packages' ones")
        return self
