"""The test queries of benchmarks/evolution.py: by cycle, what each model's NDCG on them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from evolution_arms import texts
from evolution_pooled import Measured

from serm import contracts, relevance
from serm.atomic import replace_file
from serm.evaluation.compare import numbered
from serm.evaluation.measures import ndcg
from serm.evaluation.overlap import share_token
from serm.relevance.saved import read_config
from serm.worlds.emoji import FAMILIES

TESTS = [(of, documents) for of in ("rolling", "frozen") for documents in ("served", "pool")]
FROZEN_QUERIES = 250
"""Of the frozen set, the first of which are measured: it is there to see what is forgotten."""
CUTOFFS = (1, 10)


@dataclass(frozen=True)
class Test:
    """A test set of one cycle: the queries that can be ranked wrongly."""

    of: str
    table: pa.Table
    """JUDGMENTS, with the ``number`` of each row's query."""
    texts: list[str]
    cache: Path
    """Holds each model's scores."""

    @classmethod
    def read(cls, world: Path, number: int, of: str, documents: str) -> Test:
        """Read the ``documents`` (served or pool) of the test set ``of`` (rolling or frozen) at a cycle."""
        window = world / f"window-{number}"
        table = contracts.read(window / "tests" / of / documents, contracts.JUDGMENTS)
        table = _rankable(table, FROZEN_QUERIES if of == "frozen" else None)
        known = texts(window / "documents")
        cache = world / "scores" / f"{of}-{documents}-{number if of == 'rolling' else 0}"
        return cls(f"{of} {documents}", table, [known[doc_id] for doc_id in table["doc_id"].to_pylist()], cache)

    def scores(self, model: Path) -> np.ndarray:
        """Return what ``model`` expects of each row [n]; a model is asked once."""
        file = self.cache / f"{read_config(model)[1]}.npy"
        if not file.exists():
            expected = relevance.load(model).score(self.table["query"].to_pylist(), self.texts).expected
            with replace_file(file) as beside, beside.open("wb") as opened:
                np.save(opened, expected)
        found: np.ndarray = np.load(file)
        return found

    def measured(self, models: Mapping[str, Path]) -> Measured:
        """Return NDCG by query that each of ``models`` has."""
        grades, numbers = (self.table[name].to_numpy().astype(np.int64) for name in ("grade", "number"))
        first = np.unique(numbers, return_index=True)[1]
        locales = self.table["locale"].to_pylist()
        family = {locale: name for name, there in FAMILIES.items() for locale in there}
        families = np.array([family[locales[row]] for row in first])
        slices = {"all": np.ones(len(first), bool)} | {name: families == name for name in FAMILIES}
        asked = zip(self.table["query"].to_pylist(), self.texts, locales, strict=True)
        shared = np.array([share_token(*one) for one in asked])
        values: dict[str, dict[str, np.ndarray]] = {}
        for arm, path in models.items():
            scores = self.scores(path)
            found = ndcg(numbers, grades, scores, CUTOFFS, 23)
            apart = _apart(numbers, grades, scores, ~shared)
            values[arm] = {f"NDCG@{k}": found[:, column] for column, k in enumerate(CUTOFFS)}
            values[arm] |= {f"NDCG@{k}, no shared token": apart[:, column] for column, k in enumerate(CUTOFFS)}
        return Measured(self.of, slices, values)


def _apart(numbers: np.ndarray, grades: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return NDCG over these ``rows`` [queries, cutoffs]; not a number where they cannot be ranked wrongly."""
    found = np.full((int(numbers.max()) + 1, len(CUTOFFS)), np.nan)
    kept = _with_two_grades(numbers, grades, rows)
    if kept.any():
        there, number = np.unique(numbers[kept], return_inverse=True)
        found[there] = ndcg(number, grades[kept], scores[kept], CUTOFFS, 23)
    return found


def _with_two_grades(numbers: np.ndarray, grades: np.ndarray, rows: np.ndarray) -> np.ndarray:
    count = int(numbers.max()) + 1
    low, high = np.full(count, 9), np.full(count, -1)
    np.minimum.at(low, numbers[rows], grades[rows])
    np.maximum.at(high, numbers[rows], grades[rows])
    return rows & (low < high)[numbers]


def _rankable(table: pa.Table, limit: int | None) -> pa.Table:
    """Return the rows of queries with two grades, numbered; at most ``limit`` queries, drawn at random."""
    rows = numbered(table).rows
    there = np.unique(rows["number"].to_numpy())
    if limit is None or len(there) <= limit:
        return rows
    drawn = np.sort(np.random.default_rng(5).permutation(len(there))[:limit])
    rows = rows.filter(pa.array(np.isin(rows["number"].to_numpy(), drawn)))
    number = pa.array(np.searchsorted(drawn, rows["number"].to_numpy()))
    return rows.set_column(rows.column_names.index("number"), "number", number)
