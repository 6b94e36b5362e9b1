"""The sections ``cycle``, ``engine``, ``stream`` and ``validation`` of params.yaml."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serm.settings.section import Amount, Count, Positive, Section, Share, Threads


class CycleSettings(Section):
    """Which cycle this is, and the window of the stream that it learns from: start <= event_time < end."""

    number: Annotated[int, Field(ge=1, le=9999)] = 1
    start: datetime
    end: datetime

    @model_validator(mode="after")
    def _ordered(self) -> CycleSettings:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("start and end need a time zone, for example 2017-01-01T00:00:00Z")
        if self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}")
        return self

    @property
    def name(self) -> str:
        """The cycle's git tag, for example ``cycle-0003``."""
        return f"cycle-{self.number:04d}"

    @property
    def middle(self) -> datetime:
        """The moment between the window's two halves."""
        return self.start + (self.end - self.start) / 2


class EngineSettings(Section):
    """The query engine that reads logs; no field changes a result."""

    kind: Literal["duckdb", "spark"] = "duckdb"
    """``spark`` starts Spark in this process, or takes the session that runs there."""
    remote: str | None = None
    """Of Spark: a Spark Connect server (``sc://host:15002``) that runs the plan, on the same paths as here."""
    threads: Threads = 2
    memory_gb: Annotated[float, Field(ge=0.1, le=65536)] = 2.0
    """What the engine may hold in memory; the rest spills to the temporary directory."""


class StreamSettings(Section):
    """What of a log becomes impressions."""

    max_quarantined_share: Share = 0.05
    """Lines of a UBI log that may be unreadable or break the contract."""
    allowed_lateness_hours: Amount | None = None
    """A row is late when it is older, by more than this, than the newest row of the files before its own, in the
    order of their names. Without a number no row is late: then names need not tell the order of arrival."""
    session_gap_minutes: Positive = 30
    """A pause that ends a session where the log names none, and the longest dwell that UBI event times can tell."""
    min_query_users: Count = 1
    """k: queries that fewer users of the window typed are withheld from all later steps."""
    masked: tuple[Literal["email", "iban", "card", "phone", "number"], ...] = (
        "email",
        "iban",
        "card",
        "phone",
        "number",
    )
    """What of a person's is masked in queries; leave out what your catalogue's own numbers are taken for."""
    phone_regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = (
        *("US", "MX", "BR", "ES", "PT", "IT", "PL", "IN"),
    )
    """ISO 3166 codes of numbering plans whose telephone numbers are told even where nothing but their groups of digits
    tells them. Not needed for numbers that begin with +, 00, 0 or a bracket."""
    locale: str = "en"
    """Of UBI queries without ``query_attributes.locale``."""
    shown: tuple[str, ...] = ("impression",)
    """UBI action names that say that a document was on the page. Of a query without such an event, what it returned
    counts as shown: ``query_response_hit_ids``, which other versions name ``query_response_object_ids``."""
    clicked: tuple[str, ...] = ("click", "click_through", "item_click", "view", "watch", "add_to_cart", "purchase")
    """UBI action names that say that a user went for a document: UBI's own names but ``impression``, and
    ``item_click``. Where ``view`` only says that a document came into sight, it belongs to ``shown``."""
    disliked: tuple[str, ...] = ("dismiss", "thumbs_down")
    first_ordinal: Annotated[int, Field(ge=0, le=1)] = 0
    """The ``ordinal`` of a page's first document in UBI events; position 1 in impressions."""
    max_position: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """The deepest position that can be: a row or an event below goes to quarantine, and of what a query returned no
    more is read."""

    @model_validator(mode="after")
    def _one_role_an_action(self) -> StreamSettings:
        named = Counter([*set(self.shown), *set(self.clicked), *set(self.disliked)])
        if several := sorted(name for name, lists in named.items() if lists > 1):
            raise ValueError(f"{', '.join(map(repr, several))}: in more than one of shown, clicked and disliked")
        return self


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
