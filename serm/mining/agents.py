"""The agents that mine. A new one is a file with an ``opinion`` and a line in ``AGENTS`` (docs/add-an-agent.md)."""

from __future__ import annotations

from collections.abc import Callable

import ibis

from serm.mining import click_model, disagreement, feedback, hard_negative, novelty, rejection, uncertainty
from serm.mining.opinion import Opinion, Thresholds

AGENTS: dict[str, Callable[[ibis.Table, Thresholds], Opinion]] = {
    "user feedback": feedback.opinion,
    "user rejection": rejection.opinion,
    "click model": click_model.opinion,
    "model disagreement": disagreement.opinion,
    "model uncertainty": uncertainty.opinion,
    "novelty": novelty.opinion,
    "hard negative": hard_negative.opinion,
}


def ask(pairs: ibis.Table, thresholds: Thresholds) -> ibis.Table:
    """Return what the agents chose: pair, agent (a name in ``AGENTS``), strength and reason, in a fixed order."""
    chosen = []
    for name, opinion_of in AGENTS.items():
        opinion = opinion_of(pairs, thresholds)
        chosen.append(
            pairs.filter(opinion.chosen).select(
                "pair", agent=ibis.literal(name), strength=opinion.strength, reason=opinion.reason
            )
        )
    return ibis.union(*chosen).order_by("pair", "agent")
