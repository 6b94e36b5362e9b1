"""The section ``validation`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serm.settings.section import Count, Positive, Section, Share


class ValidationSettings(Section):
    """What a run bears of its input. Past a limit marked (stops) it ends, past one marked (warns) it reports.

    No judgment may break a rule, whatever the limits: each is a label that models learn from.
    """

    max_quarantined_share: Share = 0.05
    """(stops) Impressions, and documents, that may break a rule."""
    min_impressions: Count = 1000
    """(stops) Impressions that must be left."""
    max_silent_share: Share = 0.25
    """(stops) Freshness: the time from the newest event to the window's end, as a share of the window; more says
    that the log broke off."""
    max_catalogue_age_days: Positive = 400.0
    """(warns) Freshness: days from the newest published_at to the window's end."""
    max_judgments_age_cycles: Count = 3
    """(warns) Freshness: cycles since the newest judgment."""
    max_retired_share: Share = 0.1
    """(warns) Judgments of documents that are gone from the catalogue or in quarantine, which no step uses."""
    max_unjudged_share: Share = 0.2
    """(warns) Impressions in locales that have no judgment at all."""
    trailing_windows: Count = 4
    """How many earlier windows volume and locale mix are compared with; fewer where there are fewer."""
    min_volume_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """(stops) Volume: rows beside the median of the trailing windows; impressions count by the day."""
    max_volume_ratio: Annotated[float, Field(gt=1, le=1_000_000_000)] = 4.0
    """(warns) The same, upward."""
    max_locale_shift: Share = 0.25
    """(warns) Share of the rows that would have to change their locale to have the trailing windows' mix."""
