"""The sample miner: agents that each look for another kind of mistake, and a budget that they share.

A window's impressions become pairs, pairs become candidates (seen often enough, not yet judged), the champion
scores the candidates that matter, and each agent chooses among those: Impressions, pairs, candidates, scored,
mined is the cascade whose counts ``mining.json`` reports. The agents are those of SERM (arXiv 2601.09515).
"""

from serm.mining.miner import mine

__all__ = ["mine"]
