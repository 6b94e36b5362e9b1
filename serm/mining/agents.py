"""The agents that mine. A new one is a file with an ``opinion`` and a line in ``AGENTS``, or an entry point of another
package (docs/add-an-agent.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ibis

from serm import entry_points
from serm.mining import click_model, disagreement, feedback, hard_negative, novelty, rejection, uncertainty
from serm.mining.opinion import Opinion, Thresholds
from serm.settings import MiningSettings

Agent = Callable[[ibis.Table, Thresholds], Opinion]

AGENTS: dict[str, Agent] = {
    "user feedback": feedback.opinion,
    "user rejection": rejection.opinion,
    "click model": click_model.opinion,
    "model disagreement": disagreement.opinion,
    "model uncertainty": uncertainty.opinion,
    "novelty": novelty.opinion,
    "hard negative": hard_negative.opinion,
}


def seated(options: MiningSettings) -> dict[str, Agent]:
    """Return the agents of a run by name: SERM's own, then those of other packages that ``options.agents`` names.

    Raises:
        UserError: one of those is not installed, has a name that is taken, or cannot be imported.
    """
    return AGENTS | entry_points.load("serm.agents", options.agents, AGENTS, "mining.agents")


def ask(pairs: ibis.Table, thresholds: Thresholds, agents: Mapping[str, Agent] = AGENTS) -> ibis.Table:
    """Return what the agents chose: pair, agent (its name), strength and reason, in a fixed order."""
    chosen = []
    for name, opinion_of in agents.items():
        opinion = opinion_of(pairs, thresholds)
        chosen.append(
            pairs.filter(opinion.chosen).select(
                "pair", agent=ibis.literal(name), strength=opinion.strength, reason=opinion.reason
            )
        )
    return ibis.union(*chosen).order_by("pair", "agent")
