"""What an agent is: a pure function of the scored pairs and the thresholds that gives its opinion on each pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ibis.expr.types import BooleanValue, FloatingValue, StringValue


class Opinion(NamedTuple):
    """Engine expressions over the pairs: chosen or not, how strongly (higher is stronger), and why."""

    chosen: BooleanValue
    strength: FloatingValue
    reason: StringValue


@dataclass(frozen=True)
class Thresholds:
    """The tau of every rule; a value must lie above it (for those called ``below``: under it)."""

    under_scored_below: float
    """tau_c, an expected grade."""
    over_scored_above: float
    """tau_o, an expected grade."""
    clicks: float | None
    """Clicks over expected clicks; None where any click counts."""
    engagement: float
    """tau_u, 0 to 1."""
    relevance: float
    """tau_cm, 0 to 1."""
    skipped_below: float
    """tau_s, an attractiveness."""
    dislike_rate: float
    """0 to 1."""
    novelty: float
    """tau_n, 0 to 1."""
    rise: float
    """In standard errors."""
    disagreement: float = 3.0
    """A gap between expected grades; known once pairs are scored, until then its maximum."""
    uncertainty: float = math.log(4)
    """An entropy in nats; known once pairs are scored, until then its maximum."""
