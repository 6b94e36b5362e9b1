"""The section ``drift`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serm.settings.section import Count, Positive, Section, Seed, Share


class DriftSettings(Section):
    """When a window counts as different: a test must be significant, and its effect at least as large as its floor."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """The chance, over all tests of a window together (Holm), of an alarm though nothing changed."""
    permutations: Annotated[int, Field(ge=499, le=1_000_000)] = 999
    """Random exchanges of users between the windows; the smallest p is one over this plus one."""
    sample_users: Annotated[int, Field(ge=20, le=1_000_000_000)] = 3000
    """Users of each window that the tests see, whole, drawn in the engine."""
    searches_a_user: Count = 50
    """Of a drawn user, at most: one very busy user must not be the sample."""
    embedded_queries: Count = 1000
    """Distinct queries, over all windows compared, that the champion's encoder embeds."""
    queries_a_topic: Count = 10
    """About how many distinct queries make a topic."""
    earlier_windows: Count = 6
    """How many earlier windows the state keeps a sample of; seasons are told by them."""
    sample_documents: Annotated[int, Field(ge=100, le=1_000_000_000)] = 20_000
    """Documents of each catalogue that are compared, the same ones, drawn by a hash of their id."""

    min_shift: Share = 0.02
    """The floor of the distances that lie in 0..1: share of searches (or of letters, clicks, scores) that moved."""
    min_new_share: Share = 0.005
    """The floor of news: share of searches for new queries, words, locales, topics beyond what chance explains."""
    min_click_change: Positive = 0.05
    """The floor of click rates: change relative to the earlier rate."""
    min_catalogue_change: Share = 0.05
    """Share of documents that are new, gone or have another title, from which the catalogue has drifted."""

    sample_searches: Count = 4000
    """Searches of each window that Evidently sees, one impression each, drawn in the engine."""
    column_threshold: Positive = 0.1
    """Evidently marks a column from this distance on (normed Wasserstein or Jensen-Shannon); it decides nothing."""
    text_threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.55
    """Evidently marks the text from this ROC AUC of its domain classifier on; it decides nothing."""
    seed: Seed = 11
    """Of permutations and samples."""
