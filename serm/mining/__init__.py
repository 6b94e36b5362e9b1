"""The sample miner: agents that each look for another kind of mistake, and a budget that they share.

A window's impressions become pairs, pairs become candidates (seen often enough, not yet judged), the champion
scores the candidates that matter, each agent names those that it suspects, and the budget is spread over agents and
slices of the traffic: impressions, pairs, candidates, scored, named, mined is the cascade whose counts
``mine.json`` reports. Four agents are those of SERM (arXiv 2601.09515); user rejection, novelty and hard negatives
are added.
"""

from serm.mining.mine import mine

__all__ = ["mine"]
