"""The challengers of benchmarks/rollout.py: what is different of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """A challenger."""

    ndcg: float = 0.0
    """How much its NDCG@10 is above the champion's."""
    lift: float = 0.0
    """Instead of ``ndcg``: the relative difference in satisfied clicks that its users show."""
    lost_users: float = 0.0
    """Share of the challenger's users that the log loses."""
    lost_clicks: bool = False
    """The challenger's pages log no click."""
    latency: float = 1.0
    errors: float = 0.0
    new_users: int = 20_000
    """A day, of the whole site; the challenger gets its percentage of them."""
    returning: bool = False
    """Whether users come again; else each comes on one day, all that they do there."""
    habits: bool = True
    """Whether it is known what users who return did before the start."""
    share_of_runs: float = 0.1
    """Of --runs."""


SCENARIOS = {
    "A/A": Scenario(share_of_runs=1.0),
    "1 % more satisfied clicks": Scenario(lift=0.01),
    "2 % more satisfied clicks": Scenario(lift=0.02),
    "5 % more satisfied clicks": Scenario(lift=0.05),
    "half a point of NDCG more": Scenario(0.005),
    "2 points of NDCG more": Scenario(0.02),
    "5 points more": Scenario(0.05),
    "2 points less": Scenario(-0.02),
    "5 points less": Scenario(-0.05),
    "1.2 times the latency": Scenario(latency=1.2),
    "3 times the latency": Scenario(latency=3.0),
    "1 % errors": Scenario(errors=0.01),
    "a log without its clicks": Scenario(lost_clicks=True),
    "1 % of its users lost": Scenario(lost_users=0.01),
    "1 % of its users lost, 100,000 new users a day": Scenario(lost_users=0.01, new_users=100_000),
    "5 % of its users lost": Scenario(lost_users=0.05),
    "A/A, users who return": Scenario(returning=True),
    "2 % more satisfied clicks, users who return": Scenario(lift=0.02, returning=True),
    "2 % more satisfied clicks, users who return, without CUPED": Scenario(lift=0.02, returning=True, habits=False),
    "2 points less, users who return": Scenario(-0.02, returning=True),
}
