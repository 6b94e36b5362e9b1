"""Per query and per slice: how champion and challenger rank the judged documents of a test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm.evaluation import measures
from serm.evaluation.significance import bootstrap_interval, detectable_effect, holm, randomisation_p
from serm.settings import EvaluationSettings

#: Which pairs of a test set count: all of them, or those that share a token with their query, or none.
ALL, SHARED_TOKEN, NO_SHARED_TOKEN = "all", "shared token", "no shared token"
#: What a query's slices are by: columns of PER_QUERY.
KINDS = ("family", "locale", "traffic", "query_age", "document_age")


@dataclass(frozen=True)
class Comparison:
    """Means of one measure over the ``n`` queries of a slice, champion against challenger.

    ``low`` and ``high`` bound the ``difference`` (challenger - champion) at confidence 1 - alpha; the ends of both
    models' own intervals follow. ``p`` is that of the paired randomisation test, two-sided; ``p_holm`` is the same,
    adjusted for the number of slices, and NaN for a slice too small to be tested. ``detectable`` is the smallest
    difference that a test of these queries finds with 80 % chance.
    """

    n: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    champion_low: float
    champion_high: float
    challenger_low: float
    challenger_high: float


@dataclass(frozen=True)
class SliceTest:
    """The gate measure on a slice of a test set: is it worse than its margin?

    ``p_worse`` is the one-sided p of the paired randomisation test that the loss exceeds ``margin``, not adjusted for
    the number of slices; NaN where the slice is not ``tested``.
    """

    set: str
    slice: str
    n: int
    tested: bool
    difference: float
    margin: float
    p_worse: float
    detectable: float


Compared = dict[str, dict[str, Comparison]]
"""Slice -> measure -> comparison; a slice is ``all``, or a kind and a value such as ``locale:de``."""


@dataclass(frozen=True)
class Numbered:
    """The pairs of a test set's queries that can be ranked wrongly, and those queries."""

    rows: pa.Table
    """Sorted by ``number``, the query's row in ``queries``, and doc_id."""
    queries: pa.Table
    """locale, query and those of the columns ``KINDS`` that the pairs have, sorted by (locale, query)."""

    @property
    def number(self) -> NDArray[np.int64]:
        """The query of each pair, shape [pairs]."""
        return self.rows["number"].to_numpy()  # type: ignore[no-any-return]

    @property
    def grade(self) -> NDArray[np.int64]:
        """The grade of each pair, shape [pairs]."""
        return self.rows["grade"].to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def numbered(pool: pa.Table) -> Numbered:
    """Number the queries of ``pool``: locale, query, doc_id, grade and what else there is.

    A query is a (locale, query): the same word may be asked in two languages. Queries whose documents all have
    the same grade tell nothing about a ranking and are left out.
    """
    key = ["locale", "query"]
    spread = pool.group_by(
        [*key, *(kind for kind in KINDS if kind not in key and kind in pool.column_names)]
    ).aggregate([("grade", "min"), ("grade", "max")])
    spread = spread.filter(pc.not_equal(spread["grade_min"], spread["grade_max"]))
    queries = spread.drop_columns(["grade_min", "grade_max"]).sort_by([(name, "ascending") for name in key])
    number = queries.select(key).append_column("number", pa.array(range(queries.num_rows), pa.int64()))
    places = pool.select([*key, "doc_id"]).append_column("row", pa.array(range(pool.num_rows), pa.int64()))
    places = places.join(number, key, join_type="inner").sort_by([("number", "ascending"), ("doc_id", "ascending")])
    rows = pool.take(places["row"]).append_column("number", places["number"])  # a join takes no distributions
    return Numbered(rows.combine_chunks(), queries)


def per_query(pool: Numbered, test: tuple[str, str], pairs: str, settings: EvaluationSettings) -> pa.Table:
    """Return both models' measures of each query of ``pool``, as a table of ``contracts.PER_QUERY``.

    Args:
        pool: its rows hold the scores ``champion`` and ``challenger``.
        test: the set and its documents, such as ``("rolling", "served")``.
        pairs: what ``pool`` was cut to, ``ALL`` or another.
        settings: measures and the seed of the tie shuffle.
    """
    values = {
        model: measures.measure(pool.number, pool.grade, pool.rows[model].to_numpy(), settings)
        for model in ("champion", "challenger")
    }
    constant = {
        column: pa.array([value] * pool.queries.num_rows, pa.string())
        for column, value in zip(("set", "documents", "pairs"), (*test, pairs), strict=True)
    }
    return pa.concat_tables(
        pa.table(
            constant
            | {column: pool.queries[column] for column in pool.queries.column_names}
            | {"measure": pa.array([measure] * pool.queries.num_rows, pa.string())}
            | {model: of_all[:, column] for model, of_all in values.items()}
        )
        for column, measure in enumerate(measures.names(settings))
    )


def slices(measured: pa.Table, settings: EvaluationSettings, kinds: Sequence[str] = KINDS) -> Compared:
    """Compare the models on each slice of the rows of one set, documents and choice of pairs of ``per_query``.

    Slices are ``all`` and each value of each of ``kinds``; a slice without queries is left out.
    """
    names = measures.names(settings)
    by_measure = [measured.filter(pc.equal(measured["measure"], name)) for name in names]
    champion, challenger = (
        np.stack([table[model].to_numpy() for table in by_measure], axis=1) for model in ("champion", "challenger")
    )
    compared = {
        name: dict(zip(names, _compare(champion[rows], challenger[rows], settings), strict=True))
        for name, rows in _rows_of_slices(by_measure[0], kinds)
        if rows.any()
    }
    return _adjusted(compared, settings)


def slice_tests(
    measured: Mapping[str, pa.Table], compared: Mapping[str, Compared], name: str, settings: EvaluationSettings
) -> list[SliceTest]:
    """Test each slice of the test set ``name``; a cut of the pairs counts as a slice too.

    Args:
        measured: choice of pairs -> rows of ``per_query``.
        compared: choice of pairs -> what ``slices`` made of them.
        name: the test set.
        settings: gate measure, margins, permutations and seed.
    """
    found = []
    for pairs, table in measured.items():
        rows = table.filter(pc.equal(table["measure"], settings.gate_measure))
        difference = rows["challenger"].to_numpy() - rows["champion"].to_numpy()
        large = tested(compared[pairs], settings)
        for part, chosen in _rows_of_slices(rows):
            if (part == "all") == (pairs == ALL) or not chosen.any():
                continue
            called = f"pairs:{pairs}" if part == "all" else part
            margin = settings.gate.slice_losses.get(called, settings.gate.max_slice_loss)
            one = compared[pairs][part][settings.gate_measure]
            is_tested = part in large or (part == "all" and one.n >= settings.gate.min_slice_queries)
            shifted = (difference[chosen] + margin)[:, None]
            p = (
                float(randomisation_p(shifted, settings.permutations, settings.seed, "less")[0])
                if is_tested
                else np.nan
            )
            found.append(SliceTest(name, called, one.n, is_tested, one.difference, margin, p, one.detectable))
    return found


def as_json(compared: Compared) -> dict[str, Any]:
    """Return ``slices``' result as evaluate.json holds it: slice -> {n, measures: {measure: numbers}}.

    A number that is not finite is null.
    """
    return {
        name: {
            "n": next(iter(by_measure.values())).n,
            "measures": {
                measure: {
                    key: round(value, 6) if np.isfinite(value) else None
                    for key, value in asdict(one).items()
                    if key != "n"
                }
                for measure, one in by_measure.items()
            },
        }
        for name, by_measure in compared.items()
    }


def _rows_of_slices(measured: pa.Table, kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(measured.num_rows, dtype=bool)
    for kind in kinds:
        values = measured[kind].to_numpy(zero_copy_only=False)
        for value in sorted(set(values.tolist())):
            yield f"{kind}:{value}", values == value


def tested(compared: Compared, settings: EvaluationSettings) -> list[str]:
    """Return the slices that are tested: large enough, and not all queries under another name."""
    n = {name: next(iter(by_measure.values())).n for name, by_measure in compared.items()}
    return [name for name, size in n.items() if settings.gate.min_slice_queries <= size < n["all"]]


def _adjusted(compared: Compared, settings: EvaluationSettings) -> Compared:
    """Adjust each measure's p for the number of slices tested; a slice of all queries stands by itself."""
    parts = tested(compared, settings)
    for measure, of_all in compared.get("all", {}).items():
        p = dict(zip(parts, holm(np.array([compared[name][measure].p for name in parts])).tolist(), strict=True))
        for name, by_measure in compared.items():
            one = by_measure[measure]
            by_measure[measure] = replace(one, p_holm=p.get(name, one.p if one.n == of_all.n else np.nan))
    return compared


def _compare(
    champion: NDArray[np.float64], challenger: NDArray[np.float64], settings: EvaluationSettings
) -> list[Comparison]:
    """Compare paired values, shape [n, measures] each: one comparison a measure."""
    difference = challenger - champion
    values = np.concatenate([champion, challenger, difference], axis=1)
    p = randomisation_p(difference, settings.permutations, settings.seed)
    detectable = detectable_effect(difference, settings.alpha)
    low, high = bootstrap_interval(values, settings.permutations, 1 - settings.alpha, settings.seed)
    means, lows, highs = (x.reshape(3, -1) for x in (values.mean(axis=0), low, high))
    return [
        Comparison(
            n=len(champion),
            champion=float(means[0, m]),
            challenger=float(means[1, m]),
            difference=float(means[2, m]),
            low=float(lows[2, m]),
            high=float(highs[2, m]),
            p=float(p[m]),
            p_holm=float(p[m]),
            detectable=float(detectable[m]),
            champion_low=float(lows[0, m]),
            champion_high=float(highs[0, m]),
            challenger_low=float(lows[1, m]),
            challenger_high=float(highs[1, m]),
        )
        for m in range(difference.shape[1])
    ]
