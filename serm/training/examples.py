"""Judgments as training examples: text, grade and weight, and which fit in the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend
from numpy.typing import NDArray

from serm import contracts
from serm.pairs.distributions import certain, distributions
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
    distributions: NDArray[np.float64]
    """[n, 4] Pr(grade) as the judge has it: what is learned; one-hot where the judge gave a grade alone."""
    weights: NDArray[np.float64]
    """A seed or human judgment has 1, a panel's ``panel_weight``, times its agreement where it has no distribution, a
    pair judged by users alone ``shown_weight``; each times its origin's weight. An anchor has ``anchor_weight``.
    """
    sources: NDArray[np.object_]
    origins: NDArray[np.object_]
    """``seed``, ``earlier`` (an earlier cycle's), ``new`` or ``shown`` (this cycle's, mined or not), or ``anchor``."""
    rationales: NDArray[np.object_]
    """Why the grade, as the judge said; None where it did not."""

    def __len__(self) -> int:
        return len(self.grades)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Examples:
        return Examples(*(column[rows] for column in self.columns()))

    def __add__(self, other: Examples) -> Examples:
        return Examples(*map(np.concatenate, zip(self.columns(), other.columns(), strict=True)))

    def columns(self) -> list[NDArray[Any]]:
        """Return the columns in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def taught(self, rows: NDArray[np.bool_], distributions: NDArray[np.float64]) -> Examples:
        """Return them with a model's ``distributions`` [chosen, 4] in the place of what was learned of ``rows`` [n]."""
        changed = {name: getattr(self, name).copy() for name in ("grades", "distributions", "rationales")}
        changed["grades"][rows] = distributions.argmax(1)
        changed["distributions"][rows] = distributions
        changed["rationales"][rows] = None
        return replace(self, **changed)

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
    engine: BaseBackend,
    judgments: Path,
    documents: Path,
    settings: TrainingSettings,
    origin: Literal["new", "shown"] | None = None,
) -> Known:
    """Join a JUDGMENTS dataset with the text of a DOCUMENTS dataset, sorted, so that files' order does not matter.

    Args:
        engine: joins them.
        judgments: the dataset.
        documents: the catalogue that was judged; judgments of what is gone from it are retired.
        settings: the weights of sources and origins are read.
        origin: of this cycle's own judgments; those of before are ``seed`` by their source, or ``earlier``.

    Raises:
        UserError: a dataset is missing, or none of the judged documents is in the catalogue.
    """
    judged = contracts.read(judgments, contracts.JUDGMENTS)
    judged = judged.sort_by([(name, "ascending") for name in ("locale", "query", "doc_id", "cycle", "grade")])
    joined = join(engine, judged, judgments, documents, ("title", "body"))
    judged, retired = joined.pairs, joined.retired
    sources = _objects(judged["source"].to_pylist())
    origins = np.where(sources == "seed", "seed", "earlier").astype(object)
    if origin:
        origins[:] = origin
    grades = judged["grade"].to_numpy().astype(np.int64)
    examples = Examples(
        queries=_objects(judged["query"].to_pylist()),
        documents=_texts(judged),
        locales=_objects(judged["locale"].to_pylist()),
        grades=grades,
        distributions=distributions(judged),
        weights=_weights(judged, sources, origins, settings),
        sources=sources,
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
    pairs = joined.pairs
    texts = _objects(pairs["query"].to_pylist()), _texts(pairs), _objects(pairs["locale"].to_pylist())
    return unlabelled(*texts, "mined", "new"), joined.retired.num_rows


def unlabelled(
    queries: NDArray[np.object_], documents: NDArray[np.object_], locales: NDArray[np.object_], source: str, origin: str
) -> Examples:
    """Return pairs [n] that nobody graded yet (0), all of weight 1."""
    count = len(queries)
    return Examples(
        queries=queries,
        documents=documents,
        locales=locales,
        grades=np.zeros(count, np.int64),
        distributions=certain(np.zeros(count, np.int64)),
        weights=np.ones(count),
        sources=np.full(count, source, object),
        origins=np.full(count, origin, object),
        rationales=np.full(count, None, object),
    )


def choose(known: Examples, new: Examples, shown: Examples, settings: TrainingSettings) -> Examples:
    """Return at most ``max_pairs`` examples with weight: the new ones, then shown, earlier and seed ones in like parts.

    What one part leaves free the others may take, so that seed judgments are not crowded out as windows go by. Whole
    queries are drawn, so that a list stays a list.

    Args:
        known: what was judged before this cycle: seed and earlier judgments.
        new: this cycle's judgments of mined pairs.
        shown: its judgments of what else was shown.
        settings: ``max_pairs`` and ``seed`` are read.
    """
    generator = np.random.default_rng(settings.seed)
    known, new, shown = (part[part.weights > 0] for part in (known, new, shown))
    chosen = draw(new, settings.max_pairs, generator)
    is_seed = known.origins == "seed"
    parts = (shown, known[~is_seed], known[is_seed])
    for part, count in zip(parts, _like_parts([*map(len, parts)], settings.max_pairs - len(chosen)), strict=True):
        chosen += draw(part, count, generator)
    return chosen


def _like_parts(sizes: list[int], room: int) -> list[int]:
    """Share ``room`` out evenly among parts of these ``sizes``; what a small one leaves free goes to the others."""
    counts = [0] * len(sizes)
    for done, part in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        counts[part] = min(sizes[part], room // (len(sizes) - done))
        room -= counts[part]
    return counts


def draw(examples: Examples, count: int, generator: np.random.Generator) -> Examples:
    """Return the rows of whole queries drawn at random, ``count`` rows, the last query's cut, in their order."""
    if len(examples) <= count:
        return examples
    groups = examples.groups()
    turn = generator.permutation(groups.max() + 1)[groups]
    return examples[np.sort(np.argsort(turn, kind="stable")[:count])]


def _weights(
    judged: pa.Table, sources: NDArray[np.object_], origins: NDArray[np.object_], settings: TrainingSettings
) -> NDArray[np.float64]:
    """Return each judgment's sample weight [n]: its source's times its origin's."""
    doubt = pc.if_else(pc.is_valid(judged["distribution"]), 1.0, pc.fill_null(judged["agreement"], 1.0)).to_numpy()
    of_source = np.where(sources == "panel", doubt * settings.panel_weight, 1.0)
    of_source[sources == "shown"] = settings.shown_weight
    mixing = {"earlier": settings.earlier_weight, "seed": settings.seed_weight}
    weights: NDArray[np.float64] = of_source * [mixing.get(origin, settings.new_weight) for origin in origins]
    return weights


def _texts(joined: pa.Table) -> NDArray[np.object_]:
    """Return the text of each pair's document."""
    both = zip(joined["title"].to_pylist(), joined["body"].to_pylist(), strict=True)
    return _objects([document_text(*one) for one in both])


def _objects(values: Sequence[str | None]) -> NDArray[np.object_]:
    return np.array(values, dtype=object)
