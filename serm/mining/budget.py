"""How the judges' time is shared between those who claim it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def allocate(
    pair: NDArray[np.int64], claimant: NDArray[np.int64], strength: NDArray[np.float64], budget: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose at most ``budget`` pairs from the union of what the claimants (agents, slices) name.

    They name their pairs in turns, each its strongest first, and a pair named by several is taken once. So with
    C claimants the ``budget // C`` strongest of each are always taken, and what one leaves, the others use. Ties
    are drawn with ``seed``.

    Args:
        pair: [m], the number of the pair in each claim.
        claimant: [m], the number of the one whose claim it is.
        strength: [m], higher is stronger; compared within a claimant only.
        budget: how many pairs to choose.
        seed: draws the ties.

    Returns:
        The chosen pairs, sorted, and the priority of each: one over the turn in which it was first named.
    """
    pairs, position = np.unique(pair, return_inverse=True)
    tie = np.random.default_rng(seed).permutation(len(pairs))
    order = np.lexsort((tie[position], -strength, claimant))
    sorted_claimant = claimant[order]
    turn = np.arange(len(order)) - np.searchsorted(sorted_claimant, sorted_claimant)
    first_turn = np.full(len(pairs), len(order), dtype=np.int64)
    np.minimum.at(first_turn, position[order], turn)
    taken = np.sort(np.lexsort((tie, first_turn))[:budget])
    return pairs[taken], 1 / (1 + first_turn[taken])
