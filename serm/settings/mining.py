"""The section ``mining`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serm.settings.section import Count, RegisteredNames, Section, Seed, Share


class Threshold(Section):
    """One tau: a quantile over the window's pairs, or an absolute value where one is set; never both."""

    quantile: Share | None = None
    """The threshold is this quantile of what the window holds."""
    value: Annotated[float, Field(ge=-1_000_000_000, le=1_000_000_000)] | None = None
    """The threshold itself."""

    @model_validator(mode="after")
    def _one(self) -> Threshold:
        if (self.quantile is None) == (self.value is None):
            raise ValueError("give either quantile (0 to 1) or value")
        return self


class MiningSettings(Section):
    """Who is mined, and how many. Each threshold is ``{quantile: q}`` over the window's pairs, or ``{value: v}``."""

    agents: RegisteredNames = ()
    """Agents of other packages (entry points of ``serm.agents``) that mine beside SERM's own."""
    budget: Count = 2500
    """Pairs that go to the judges in a cycle."""
    min_impressions: Count = 3
    """Pairs shown less often than this tell too little to be scored."""
    max_scored: Count = 2500
    """Pairs that the champion scores with dropout for disagreement and uncertainty; the rest are cut first."""
    under_scored: Threshold = Threshold(value=1.5)
    """tau_c: a pair that users like is suspicious when the champion's expected grade f is below this."""
    over_scored: Threshold = Threshold(quantile=0.75)
    """tau_o: a pair that users pass by is suspicious when the champion's expected grade f is above this."""
    clicks: Threshold | None = Threshold(quantile=0.95)
    """A pair counts as clicked when its clicks over expected clicks are above this; null: any click, as published,
    which over a long window names every pair by some misclick."""
    skipped: Threshold = Threshold(quantile=0.3)
    """tau_s: a pair counts as skipped when attractiveness, one standard error up, is below this (0 to 1)."""
    disliked: Threshold = Threshold(quantile=0.95)
    """A pair counts as disliked when its rate of negative feedback is above this (0 to 1)."""
    novelty: Threshold = Threshold(value=0.5)
    """tau_n: a query is new when its cluster's novelty is above this (0 to 1): the share of the searches to be expected
    of it that the reference window lacks."""
    rise: Threshold = Threshold(value=4.0)
    """A query rises when the window's later half has this many standard errors more of it than of others."""
    engagement: Threshold = Threshold(quantile=0.8)
    """tau_u, of engagement U (dwell seconds a click, squashed to 0..1)."""
    attractiveness: Threshold = Threshold(quantile=0.8)
    """tau_cm, of the click model's relevance R_cm (0 to 1)."""
    disagreement: Threshold = Threshold(quantile=0.8)
    """tau_md, of MD, a gap between expected grades (0 to 3)."""
    uncertainty: Threshold = Threshold(quantile=0.8)
    """tau_mu, of MU, an entropy in nats (0 to ln 4)."""
    dropout_samples: Annotated[int, Field(ge=2, le=32)] = 3
    """K stochastic passes for model disagreement (MD)."""
    clustered_queries: Count = 20_000
    """Queries of either window, the most searched, that are clustered for novelty; the others count as known."""
    queries_a_cluster: Count = 8
    """Mean size of a cluster of queries."""
    hard_negatives: Annotated[int, Field(ge=0, le=1000)] = 1
    """Documents nobody was shown that each searcher adds to a query; 0 for none."""
    hard_negatives_by: tuple[Literal["BM25", "encoder"], ...] = ("BM25", "encoder")
    """Who searches the catalogue for them; the encoder embeds every document of the queries' locales."""
    hard_negative_queries: Count = 300
    """Queries that they are searched for, drawn from those of the scored pairs."""
    hard_negative_documents: Count = 3_000
    """Documents that they are searched among, drawn from the catalogue in the queries' locales; the encoder embeds
    each of them, in every cycle."""
    seed: Seed = 13
    """Of samples and of Monte Carlo drop-out."""
