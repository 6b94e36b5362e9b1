"""From the agents' opinions to the mined pairs: near-duplicates out, and the budget spread so that none starves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serm.mining.agents import AGENTS
from serm.mining.budget import allocate
from serm.mining.duplicates import canonical
from serm.settings import MiningSettings


@dataclass(frozen=True)
class Selection:
    """The chosen pairs, sorted, the priority of each (see ``budget.allocate``), and who was left out."""

    pair: NDArray[np.int64]
    priority: NDArray[np.float64]
    duplicates: int
    """Named pairs whose query says the same as a more shown one of the same document."""


def select(scored: pa.Table, opinions: pa.Table, new_above: float, options: MiningSettings) -> Selection:
    """Choose at most ``budget`` of the pairs that agents named.

    Every agent claims the pairs that it named, its strongest first; and every slice of the traffic (a locale; head,
    torso and tail queries; new and known queries) claims its own, in the order in which the agents come to them. The
    claims are served in turns, so each of C claimants gets its ``budget // C`` best whatever the others want.

    Args:
        scored: pair, query, locale, doc_id, impressions, segment, novelty.
        opinions: pair, agent (its name), strength.
        new_above: tau_n; a query with more novelty is new.
        options: budget, agents and seed are read.
    """
    kept = _without_duplicates(scored, np.unique(opinions["pair"].to_numpy()))
    is_kept = np.isin(opinions["pair"].to_numpy(), kept["pair"].to_numpy())
    named = opinions.filter(pa.array(is_kept))
    agents = [*AGENTS, *options.agents]
    agent = np.array([agents.index(name) for name in named["agent"].to_pylist()], dtype=np.int64)
    pair, strength = named["pair"].to_numpy(), named["strength"].to_numpy()
    ranked, priority = allocate(pair, agent, strength, len(pair), options.seed)

    slices = _slices(kept, new_above)
    claims = [(pair, agent, strength)]
    claims += [(ranked, number + len(agents), priority) for number in slices]
    pair, claimant, strength = (np.concatenate(column) for column in zip(*claims, strict=True))
    taken, priority = allocate(pair, claimant, strength, options.budget, options.seed)
    return Selection(taken, priority, duplicates=len(np.unique(opinions["pair"].to_numpy())) - kept.num_rows)


def _without_duplicates(scored: pa.Table, named: NDArray[np.int64]) -> pa.Table:
    """Return the rows of ``scored`` that are named, the most shown one where queries of a document say the same."""
    rows = scored.filter(pa.array(np.isin(scored["pair"].to_numpy(), named))).sort_by("pair")
    keys = list(zip(rows["locale"].to_pylist(), rows["query"].to_pylist(), strict=True))
    shown = rows["impressions"].to_pylist()
    by_query: dict[tuple[str, str], int] = {}
    for key, count in zip(keys, shown, strict=True):
        by_query[key] = by_query.get(key, 0) + count
    stands_for = canonical(by_query)
    best: dict[tuple[tuple[str, str], str], int] = {}
    for row, (key, document) in enumerate(zip(keys, rows["doc_id"].to_pylist(), strict=True)):
        other = best.setdefault((stands_for[key], document), row)
        if shown[row] > shown[other]:
            best[stands_for[key], document] = row
    return rows.take(pa.array(sorted(best.values()), pa.int64()))


def _slices(pairs: pa.Table, new_above: float) -> list[NDArray[np.int64]]:
    """Return three numberings [pairs] that share no number: the slice that each pair belongs to."""
    kinds = (
        np.array(pairs["locale"].to_pylist(), dtype=str),
        np.array(pairs["segment"].to_pylist(), dtype=str),
        pairs["novelty"].to_numpy() > new_above,
    )
    numberings, used = [], 0
    for kind in kinds:
        names, number = np.unique(kind, return_inverse=True)
        numberings.append(number + used)
        used += len(names)
    return numberings
