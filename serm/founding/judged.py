"""A team's judgments, split by query into what is trained on and what is tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.errors import UserError
from serm.evaluation.significance import POWER
from serm.founding.given import Given
from serm.pairs.test_sets import POOL, SERVED, SETS, datasets
from serm.pairs.test_sets import served as served_of
from serm.pairs.text import fold, folded
from serm.stream.judgments import read, scale

Part = Literal["seed", "frozen", "rolling"]
SEED, FROZEN = 0.70, 0.85
"""Shares of the queries: seed up to the first, frozen up to the second, rolling above."""
DEVIATION = 0.15
"""Of a query's difference in NDCG@10 between two models of one base: what was seen in the emoji world, 0.11 to 0.17."""

_PAIR = ["locale", "query", "doc_id"]


def part_of(query: str) -> Part:
    """Return the part that a query falls to, by a hash of its folded text: however it is spelled, in any locale."""
    share = int.from_bytes(hashlib.sha256(f"serm-tests-1:{fold(query)}".encode()).digest()[:8], "big") / 2**64
    if share < SEED:
        return "seed"
    return "frozen" if share < FROZEN else "rolling"


@dataclass(frozen=True)
class Split:
    """Judgments by what they are for."""

    seed: pa.Table
    """JUDGMENTS, with source ``seed``."""
    tests: dict[tuple[str, str], pa.Table]
    """(set, documents) -> JUDGMENTS, with source ``human``, or ``panel`` where a panel made them."""
    assumed: int
    """Test queries that the log shows nothing judged for: all of their judged documents stand for what is served."""

    def figures(self) -> dict[str, int]:
        """Return how many queries and pairs there are of each."""
        found = {"seed_queries": _queries(self.seed), "seed_pairs": self.seed.num_rows}
        for name in SETS:
            found[f"{name}_queries"] = _queries(self.tests[name, SERVED])
        return found | {"test_queries_with_assumed_lists": self.assumed}


def split(judgments: pa.Table, shown: pa.Table) -> Split:
    """Split JUDGMENTS by their queries, about 70 % seed, 15 % frozen and 15 % rolling.

    Args:
        judgments: of the whole team, a pair once.
        shown: locale, query (folded) and doc_id of what the log shows was served. What of it is judged is a test
            query's ``served`` list; its ``pool`` is all that is judged.
    """
    tests, assumed = {}, 0
    for name in SETS:
        pool = _of(_falling_to(judgments, name), "human", but="panel")
        served, unseen = served_of(pool, shown)
        tests[name, POOL], tests[name, SERVED] = pool, served
        assumed += unseen
    return Split(seed_of(judgments, {}), tests, assumed)


def seed_of(judgments: pa.Table, tests: dict[tuple[str, str], pa.Table]) -> pa.Table:
    """Return the JUDGMENTS to train on: of queries that the given ``tests`` do not ask; without any, by their hash."""
    if not tests:
        return _of(_falling_to(judgments, "seed"), "seed")
    asked = pa.concat_arrays([folded(of["query"]) for of in tests.values()])
    return _of(judgments.filter(pc.invert(pc.is_in(folded(judgments["query"]), value_set=pc.unique(asked)))), "seed")


def given_tests(given: Given) -> dict[tuple[str, str], pa.Table]:
    """Return (set, documents) -> JUDGMENTS of the test sets in the directory ``given.tests``.

    Raises:
        UserError: it has no frozen set, or a file of it cannot be read or kept whole.
    """
    assert given.tests is not None
    found = {}
    for name, documents in datasets(given.tests):
        files = sorted((given.tests / name).glob(f"{documents}.*"))
        if len(files) > 1:
            raise UserError(f"--tests {given.tests}: {files[0].name} and {files[1].name} in {name}; keep one of them.")
        if files:
            scaled = scale(given.ratings) if given.ratings else None
            read_in = read(files[0], given.locale, scaled, given.queries, all_locales=True)
            if read_in.quarantined:
                first = read_in.quarantined[0]
                raise UserError(f"{files[0]}: {first.where}: {first.reason}; mend it, as tests are to be whole.")
            found[name, documents] = _of(read_in.judgments, "human", but="panel")
    if ("frozen", POOL) not in found:
        raise UserError(f"--tests {given.tests}: it has no frozen/pool file of judgments, such as frozen/pool.jsonl.")
    if gone := [name for name, documents in found if (name, POOL) not in found]:
        raise UserError(f"--tests {given.tests}: {gone[0]} has a served file and no pool file; give both, or the pool.")
    return found


def beside(judgments: pa.Table, tests: dict[tuple[str, str], pa.Table], shown: pa.Table) -> Split:
    """Return the ``judgments`` of queries that none of the given ``tests`` asks as seed, and the tests.

    Where a set's served lists are not given, they are told as by ``split``.
    """
    whole, assumed = {}, 0
    for name in SETS:
        pool = tests.get((name, POOL), contracts.JUDGMENTS.empty_table())
        served, unseen = served_of(pool, shown) if (name, SERVED) not in tests else (tests[name, SERVED], 0)
        whole[name, POOL], whole[name, SERVED] = pool, served
        assumed += unseen
    return Split(seed_of(judgments, tests), whole, assumed)


def queries_needed(margin: float, alpha: float, deviation: float = DEVIATION) -> int:
    """Return how many test queries find a true difference of ``margin`` with chance ``POWER`` in a two-sided test.

    ``((z[1 - alpha / 2] + z[POWER]) deviation / margin)^2``; ``deviation`` is that of a query's difference.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(POWER)
    return int(np.ceil((z * deviation / margin) ** 2))


def _falling_to(judgments: pa.Table, part: str) -> pa.Table:
    return judgments.filter(pa.array([part_of(query) == part for query in judgments["query"].to_pylist()], pa.bool_()))


def _of(table: pa.Table, source: str, but: str | None = None) -> pa.Table:
    """Return ``table`` with ``source``, in rows whose source is ``but`` that one; sorted."""
    column = table.column_names.index("source")
    table = table.set_column(
        column, "source", pc.if_else(pc.equal(table["source"], but or source), but or source, source)
    )
    return table.select(contracts.JUDGMENTS.names).sort_by([(name, "ascending") for name in _PAIR])


def _queries(table: pa.Table) -> int:
    return int(table.group_by(["locale", "query"]).aggregate([]).num_rows)
