"""Judgments as training examples: text, grade and weight, and which fit in the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend
from numpy.typing import NDArray

from serm import contracts
from serm.pairs.documents import join
from serm.pairs.text import fold, folded
from serm.relevance import document_text
from serm.settings import TrainingSettings

Query = tuple[str, str]
"""Locale and folded text: queries that only differ in their spelling are one."""


@dataclass(frozen=True)
class Examples:
    """``n`` judged pairs, a row each."""

    queries: NDArray[np.object_]
    documents: NDArray[np.object_]
    """The documents' text."""
    locales: NDArray[np.object_]
    grades: NDArray[np.int64]
    weights: NDArray[np.float64]
    """A seed or human judgment has 1, a panel's its agreement times ``panel_weight``; each times its origin's weight.
    """
    sources: NDArray[np.object_]
    origins: NDArray[np.object_]
    """``seed``, ``earlier`` (an earlier cycle's) or ``new`` (this cycle's)."""
    rationales: NDArray[np.object_]
    """Why the grade, as the judge said; None where it did not."""

    def __len__(self) -> int:
        return len(self.grades)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Examples:
        return Examples(*(column[rows] for column in self.columns()))

    def __add__(self, other: Examples) -> Examples:
        return Examples(*map(np.concatenate, zip(self.columns(), other.columns(), strict=True)))

    def columns(self) -> list[NDArray[Any]]:
        """Return the columns in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def texts(self) -> tuple[list[str], list[str]]:
        """Return the queries and the documents, as a model takes them."""
        return self.queries.tolist(), self.documents.tolist()

    def groups(self) -> NDArray[np.int64]:
        """Number the queries (a text in a locale) from 0; return each row's number [n]."""
        numbers: dict[tuple[str, str], int] = {}
        keys = zip(self.locales, self.queries, strict=True)
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)

    def asked(self) -> list[Query]:
        """Return the query of each row [n]."""
        text = {query: fold(query) for query in set(self.queries)}
        return [(locale, text[query]) for locale, query in zip(self.locales, self.queries, strict=True)]

    def by_origin(self) -> dict[str, dict[str, float]]:
        """Return for each origin its pairs, and its share of the weight of all, 0 to 1."""
        total = max(float(self.weights.sum()), 1e-12)
        return {
            str(name): {"pairs": int(rows.sum()), "weight_share": round(float(self.weights[rows].sum()) / total, 4)}
            for name in np.unique(self.origins.astype(str))
            for rows in [self.origins == name]
        }

    def by_source(self) -> dict[str, int]:
        """Count the pairs of each source."""
        names, counts = np.unique(self.sources.astype(str), return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Known:
    """A dataset of judgments as examples, and what of it is retired because its documents are gone."""

    examples: Examples
    retired: int
    """Judgments."""
    retired_seeds: frozenset[Query]
    """The queries of the seed judgments among them."""


def read_known(
    engine: BaseBackend, judgments: Path, documents: Path, settings: TrainingSettings, new: bool = False
) -> Known:
    """Join a JUDGMENTS dataset with the text of a DOCUMENTS dataset, sorted, so that files' order does not matter.

    Args:
        engine: joins them.
        judgments: the dataset.
        documents: the catalogue that was judged; judgments of what is gone from it are retired.
        settings: ``panel_weight`` and the weights of the origins are read.
        new: whether the judgments are this cycle's own; those of before are ``seed`` by their source, or ``earlier``.

    Raises:
        UserError: a dataset is missing, or none of the judged documents is in the catalogue.
    """
    judged = contracts.read(judgments, contracts.JUDGMENTS)
    judged = judged.sort_by([(name, "ascending") for name in ("locale", "query", "doc_id", "cycle", "grade")])
    joined = join(engine, judged, judgments, documents, ("title", "body"))
    judged, retired = joined.pairs, joined.retired
    agreement = pc.fill_null(judged["agreement"], 1.0).to_numpy()
    panel = np.asarray(pc.equal(judged["source"], "panel"))
    origins = np.where(np.asarray(pc.equal(judged["source"], "seed")), "seed", "earlier").astype(object)
    if new:
        origins[:] = "new"
    mixing = {"new": settings.new_weight, "earlier": settings.earlier_weight, "seed": settings.seed_weight}
    examples = Examples(
        queries=_objects(judged["query"].to_pylist()),
        documents=_texts(judged),
        locales=_objects(judged["locale"].to_pylist()),
        grades=judged["grade"].to_numpy().astype(np.int64),
        weights=np.where(panel, agreement * settings.panel_weight, 1.0) * np.array([mixing[o] for o in origins]),
        sources=_objects(judged["source"].to_pylist()),
        origins=origins,
        rationales=_objects(judged["rationale"].to_pylist()),
    )
    seeds = retired.filter(pc.equal(retired["source"], "seed"))
    asked = zip(seeds["locale"].to_pylist(), folded(seeds["query"]).to_pylist(), strict=True)
    return Known(examples, retired.num_rows, frozenset(asked))


def read_mined(engine: BaseBackend, mined: Path, documents: Path) -> tuple[Examples, int]:
    """Join a MINED_PAIRS dataset with the documents' text, as ``read_known``: no grades yet (0), all of weight 1.

    Returns the examples, and how many pairs are retired.
    """
    pairs = contracts.read(mined, contracts.MINED_PAIRS)
    pairs = pairs.sort_by([(name, "ascending") for name in ("locale", "query", "doc_id")])
    joined = join(engine, pairs.select(["query", "locale", "doc_id"]), mined, documents, ("title", "body"))
    pairs, count = joined.pairs, joined.pairs.num_rows
    examples = Examples(
        queries=_objects(pairs["query"].to_pylist()),
        documents=_texts(pairs),
        locales=_objects(pairs["locale"].to_pylist()),
        grades=np.zeros(count, np.int64),
        weights=np.ones(count),
        sources=_objects(["mined"] * count),
        origins=_objects(["new"] * count),
        rationales=_objects([None] * count),
    )
    return examples, joined.retired.num_rows


def choose(earlier: Examples, new: Examples, settings: TrainingSettings) -> Examples:
    """Return at most ``max_pairs`` examples with weight: the new ones, then earlier and seed ones drawn evenly."""
    generator = np.random.default_rng(settings.seed)
    earlier, new = earlier[earlier.weights > 0], new[new.weights > 0]
    return draw(new, settings.max_pairs, generator) + draw(earlier, max(0, settings.max_pairs - len(new)), generator)


def draw(examples: Examples, count: int, generator: np.random.Generator) -> Examples:
    """Return ``count`` rows at random in their order, or all if there are fewer."""
    if len(examples) <= count:
        return examples
    return examples[np.sort(generator.choice(len(examples), count, replace=False))]


def _texts(joined: pa.Table) -> NDArray[np.object_]:
    """Return the text of each pair's document."""
    both = zip(joined["title"].to_pylist(), joined["body"].to_pylist(), strict=True)
    return _objects([document_text(*one) for one in both])


def _objects(values: Sequence[str | None]) -> NDArray[np.object_]:
    return np.array(values, dtype=object)
