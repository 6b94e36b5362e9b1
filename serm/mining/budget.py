"""How the judges' time is shared between the agents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def allocate(
    pair: NDArray[np.int64], agent: NDArray[np.int64], strength: NDArray[np.float64], budget: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose at most ``budget`` pairs from the union of what the agents chose.

    The agents name their pairs in turns, each its strongest first, and a pair named by several is taken once. So
    with A agents the ``budget // A`` strongest of each are always taken, and what one agent leaves, the others
    use. Ties are drawn with ``seed``.

    Args:
        pair: [m], the number of the pair in each opinion.
        agent: [m], the number of the agent whose opinion it is.
        strength: [m], higher is stronger; compared within an agent only.
        budget: how many pairs to choose.
        seed: draws the ties.

    Returns:
        The chosen pairs, sorted, and the priority of each: one over the turn in which it was first named.
    """
    pairs, position = np.unique(pair, return_inverse=True)
    tie = np.random.default_rng(seed).permutation(len(pairs))
    order = np.lexsort((tie[position], -strength, agent))
    sorted_agent = agent[order]
    turn = np.arange(len(order)) - np.searchsorted(sorted_agent, sorted_agent)
    first_turn = np.full(len(pairs), len(order), dtype=np.int64)
    np.minimum.at(first_turn, position[order], turn)
    taken = np.sort(np.lexsort((tie, first_turn))[:budget])
    return pairs[taken], 1 / (1 + first_turn[taken])
