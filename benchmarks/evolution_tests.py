"""The test queries of benchmarks/evolution.py: by cycle, what each model's NDCG on them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
from evolution_arms import texts
from evolution_pooled import (
    ASKED,
    BEFORE,
    ERRORS,
    ITS_CHAMPION,
    LOOKED_UP,
    RIGHT,
    SERVED,
    SPOILT,
    Floats,
    Measured,
)

from serm import contracts, relevance
from serm.atomic import replace_file
from serm.evaluation.compare import numbered
from serm.evaluation.measures import ndcg
from serm.evaluation.overlap import share_token
from serm.relevance.saved import read_config
from serm.serving.judgments import expected
from serm.settings.serving import TransformerSettings
from serm.worlds import traffic
from serm.worlds.emoji import FAMILIES, EmojiWorld

TESTS = [(of, documents) for of in ("rolling", "frozen") for documents in ("served", "pool")]
FROZEN_QUERIES = 250
"""Of the frozen set, the first of which are measured: it is there to see what is forgotten."""
CUTOFFS = (1, 10)
_PAIR = ["query", "locale", "doc_id"]


@dataclass(frozen=True)
class Test:
    """A test set of one cycle: the queries that can be ranked wrongly."""

    of: str
    table: pa.Table
    """JUDGMENTS, with the ``number`` of each row's query."""
    texts: list[str]
    cache: Path
    """Holds each model's scores."""
    slices: Mapping[str, Floats]
    """Name -> [queries], what each query weighs in it."""

    @classmethod
    def read(cls, world: Path, number: int, of: str, documents: str) -> Test:
        """Read the ``documents`` (served or pool) of the test set ``of`` (rolling or frozen) at a cycle."""
        window = world / f"window-{number}"
        table = contracts.read(window / "tests" / of / documents, contracts.JUDGMENTS)
        table = _rankable(table, FROZEN_QUERIES if of == "frozen" else None)
        known = texts(window / "documents")
        cache = world / "scores" / f"{of}-{documents}-{number if of == 'rolling' else 0}"
        family = {locale: name for name, there in FAMILIES.items() for locale in there}
        families = np.array([family[locale] for _, locale in _queries(table)])
        slices = {"all": np.ones(len(families))} | {name: (families == name).astype(float) for name in FAMILIES}
        listed = [known[doc_id] for doc_id in table["doc_id"].to_pylist()]
        return cls(f"{of} {documents}", table, listed, cache, slices)

    @classmethod
    def asked(cls, world: Path, emoji: EmojiWorld, number: int) -> Test:
        """Read the lists that are served in the window after cycle ``number``, for the queries of its traffic.

        No query of the other tests is among them, so some were asked in a window that the cycle's models learnt from.
        """
        window = world / f"window-{number + 1}"
        table = _rankable(contracts.read(window / "asked", contracts.JUDGMENTS), None)
        known = texts(window / "documents")
        rows, shares = traffic.popularity(emoji, number + 1)
        earlier = np.concatenate([traffic.popularity(emoji, before)[0] for before in range(1, number + 1)])
        named = zip(emoji.truth.queries[rows].tolist(), emoji.truth.locales[rows].tolist(), strict=True)
        row = {name: at for at, name in enumerate(named)}
        at = np.array([row[name] for name in _queries(table)])
        before = np.isin(rows[at], earlier)
        slices = {"all": np.ones(len(at)), "by search": shares[at]}
        slices |= {"asked before": before.astype(float), "not asked before": (~before).astype(float)}
        listed = [known[doc_id] for doc_id in table["doc_id"].to_pylist()]
        return cls(ASKED, table, listed, world / "scores" / f"asked-{number}", slices)

    def scores(self, model: Path) -> np.ndarray:
        """Return what ``model`` expects of each row [n]; a model is asked once."""
        file = self.cache / f"{read_config(model)[1]}.npy"
        if not file.exists():
            expected = relevance.load(model).score(self.table["query"].to_pylist(), self.texts).expected
            with replace_file(file) as beside, beside.open("wb") as opened:
                np.save(opened, expected)
        found: np.ndarray = np.load(file)
        return found

    def looked_up(self, known: Path, before: Path, models: Mapping[str, Path]) -> dict[str, Floats]:
        """Return scores [n] of what ranks by SERM's labels, or by labels and a model, and by a model where it has none.

        Args:
            known: SERM's labels after the cycle (JUDGMENTS).
            before: those before it.
            models: of the cycle, by arm.
        """
        labels, champion, weight = self._labels(known), models[ITS_CHAMPION], TransformerSettings().judgment_weight
        by = {LOOKED_UP.format(name): (labels, models[name], 1.0) for name in ("static", "SERM")}
        by[SERVED] = labels, models["SERM"], weight
        for right, errors in product(RIGHT, ERRORS):
            spoilt = self._spoilt(labels, right, champion if errors == "as the champion" else None)
            by[SPOILT.format(right, errors)] = spoilt, models["SERM"], weight
        by[BEFORE] = self._labels(before), champion, weight
        found = {}
        for name, (told, model, share) in by.items():
            scores = self.scores(model)
            found[name] = np.where(np.isfinite(told), share * told + (1 - share) * scores, scores)
        return found

    def _labels(self, known: Path) -> Floats:
        """Return the expected grade of each row's label in ``known`` (JUDGMENTS); not a number where it has none."""
        labelled = contracts.read(known, contracts.JUDGMENTS)
        labelled = labelled.select(_PAIR).append_column("label", expected(labelled))
        rows = self.table.select(_PAIR).append_column("row", pa.array(np.arange(self.table.num_rows)))
        found: Floats = rows.join(labelled, _PAIR).sort_by("row")["label"].to_numpy()
        return found

    def _spoilt(self, labels: Floats, right: float, like: Path | None) -> Floats:
        """Return true grades in the place of the ``labels`` [n], where there are any, but for a share that is wrong.

        A wrong one is any other grade, or what the model ``like`` says where it errs; it may err less often than that.
        """
        draw, true = np.random.default_rng(11), self.table["grade"].to_numpy().astype(np.float64)
        wrong = (true + draw.integers(1, 4, len(true))) % 4 if like is None else np.rint(self.scores(like))
        there = np.isfinite(labels)
        errs = draw.permutation(np.flatnonzero(there & (wrong != true)))[: round((1 - right) * there.sum())]
        true[errs] = wrong[errs]
        return np.where(there, true, np.nan)

    def measured(self, models: Mapping[str, Path], rankings: Mapping[str, Floats]) -> Measured:
        """Return NDCG by query that each of ``models`` has, and each of ``rankings`` (name -> scores [n])."""
        grades, numbers = (self.table[name].to_numpy().astype(np.int64) for name in ("grade", "number"))
        asked = zip(self.table["query"].to_pylist(), self.texts, self.table["locale"].to_pylist(), strict=True)
        shared = np.array([share_token(*one) for one in asked])
        values: dict[str, dict[str, np.ndarray]] = {}
        every = {arm: self.scores(path) for arm, path in models.items()} | {**rankings}
        for arm, scores in every.items():
            found = ndcg(numbers, grades, scores, CUTOFFS, 23)
            apart = _apart(numbers, grades, scores, ~shared)
            values[arm] = {f"NDCG@{k}": found[:, column] for column, k in enumerate(CUTOFFS)}
            values[arm] |= {f"NDCG@{k}, no shared token": apart[:, column] for column, k in enumerate(CUTOFFS)}
        return Measured(self.of, self.slices, values)


def _queries(table: pa.Table) -> list[tuple[str, str]]:
    """Return query and locale of each ``number``."""
    first = pa.array(np.unique(table["number"].to_numpy(), return_index=True)[1])
    return list(zip(*(table[name].take(first).to_pylist() for name in ("query", "locale")), strict=True))


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
