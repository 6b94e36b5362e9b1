"""The section ``stream`` of params.yaml."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serm.settings.section import Amount, Count, Positive, Section, Share


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
    """UBI actions by which a user says that a result is bad: negative feedback."""
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
