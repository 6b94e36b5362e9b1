"""Seed queries that no cycle trains on: the temperature, early stopping and what is forgotten are measured on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serm.training.examples import Examples, Known, Query


@dataclass(frozen=True)
class HeldOut:
    """Whole queries: no judgment of theirs is trained on, whoever gave it, in whichever spelling or cycle."""

    queries: frozenset[Query]
    calibrating: Examples
    """The seed judgments of half of them, for the temperature and early stopping."""
    remembering: Examples
    """Those of the other half, on which what is forgotten is measured and nothing else."""

    @classmethod
    def of(cls, known: Known, share: float) -> HeldOut:
        """Hold out about ``share`` of the seed queries, those of retired judgments too: their documents may return."""
        examples = known.examples
        is_seed = examples.sources == "seed"
        low, lowest = chosen(examples.asked(), share) & is_seed, chosen(examples.asked(), share / 2) & is_seed
        seeds = {asked for asked, seed in zip(examples.asked(), is_seed, strict=True) if seed} | known.retired_seeds
        listed = sorted(seeds)
        queries = frozenset(asked for asked, held in zip(listed, chosen(listed, share), strict=True) if held)
        return cls(queries, examples[lowest], examples[low & ~lowest])

    def without(self, examples: Examples) -> Examples:
        """Return the ``examples`` of other queries."""
        return examples[np.array([asked not in self.queries for asked in examples.asked()], bool)]


def chosen(asked: list[Query], share: float, salt: str = "") -> NDArray[np.bool_]:
    """Return which of the queries ``asked`` [n] are the ``share`` with the lowest hashes.

    It depends on nothing but the query and the ``salt``; another one chooses others.
    """
    hashed = [hashlib.sha256(f"{salt}{locale}\t{query}".encode()).digest() for locale, query in asked]
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in hashed], np.float64) < share
