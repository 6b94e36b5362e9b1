"""Per query and per slice: how champion and challenger rank the judged pools of a test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm.evaluation.gate import Comparison
from serm.evaluation.measures import ndcg
from serm.evaluation.significance import bootstrap_interval, randomisation_p
from serm.settings import EvaluationSettings

#: Which pairs of a pool count: all of them, or those that share no token with their query.
ALL, NO_SHARED_TOKEN = "all", "no shared token"


def per_query(pool: pa.Table, name: str, pairs: str, settings: EvaluationSettings) -> pa.Table:
    """Return NDCG of both models for each query of ``pool``, as a table of ``contracts.PER_QUERY``.

    A query is a (locale, query): the same word may be asked in two languages. Queries whose documents all have
    the same grade tell nothing about a ranking and are left out.

    Args:
        pool: locale, query, grade, and the scores champion and challenger; one row a judged document.
        name: the test set, ``frozen`` or ``rolling``.
        pairs: what ``pool`` was cut to, ``ALL`` or ``NO_SHARED_TOKEN``.
        settings: cutoffs, families and the seed of the tie shuffle.
    """
    spread = pool.group_by(["locale", "query"]).aggregate([("grade", "min"), ("grade", "max")])
    spread = spread.filter(pc.not_equal(spread["grade_min"], spread["grade_max"]))
    queries = spread.select(["locale", "query"]).sort_by([("locale", "ascending"), ("query", "ascending")])
    queries = queries.append_column("number", pa.array(range(queries.num_rows), pa.int64()))
    rows = pool.join(queries, ["locale", "query"], join_type="inner").sort_by(
        [("number", "ascending"), ("doc_id", "ascending")]
    )
    number, grade = rows["number"].to_numpy(), rows["grade"].to_numpy().astype(np.int64)
    champion, challenger = (
        ndcg(number, grade, rows[model].to_numpy(), settings.cutoffs, settings.seed)
        for model in ("champion", "challenger")
    )
    family = {locale: name for name, locales in settings.families.items() for locale in locales}
    locales = queries["locale"].to_pylist()
    return pa.concat_tables(
        pa.table(
            {
                "set": pa.array([name] * len(locales), pa.string()),
                "pairs": pa.array([pairs] * len(locales), pa.string()),
                "query": queries["query"],
                "locale": queries["locale"],
                "family": pa.array([family.get(locale, "other") for locale in locales], pa.string()),
                "measure": pa.array([f"NDCG@{cutoff}"] * len(locales), pa.string()),
                "champion": champion[:, column],
                "challenger": challenger[:, column],
            }
        )
        for column, cutoff in enumerate(settings.cutoffs)
    )


def slices(measured: pa.Table, settings: EvaluationSettings) -> dict[str, dict[str, Comparison]]:
    """Return slice -> measure -> comparison, for the rows of one set and choice of pairs of ``per_query``.

    Slices are ``all``, each language family and each locale; a slice without queries is left out.
    """
    names = [f"NDCG@{cutoff}" for cutoff in settings.cutoffs]
    by_measure = [measured.filter(pc.equal(measured["measure"], name)) for name in names]
    champion, challenger = (
        np.stack([table[model].to_numpy() for table in by_measure], axis=1) for model in ("champion", "challenger")
    )
    return {
        name: dict(zip(names, _compare(champion[rows], challenger[rows], settings), strict=True))
        for name, rows in _rows_of_slices(by_measure[0])
        if rows.any()
    }


def as_json(compared: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    """Return ``slices``' result as evaluation.json holds it: slice -> {n, measures: {measure: numbers}}."""
    return {
        name: {
            "n": next(iter(measures.values())).n,
            "measures": {
                measure: {key: round(value, 6) for key, value in asdict(one).items() if key != "n"}
                for measure, one in measures.items()
            },
        }
        for name, measures in compared.items()
    }


def _rows_of_slices(measured: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(measured.num_rows, dtype=bool)
    for column in ("family", "locale"):
        values = measured[column].to_numpy(zero_copy_only=False)
        for value in sorted(set(values.tolist())):
            yield value, values == value


def _compare(
    champion: NDArray[np.float64], challenger: NDArray[np.float64], settings: EvaluationSettings
) -> list[Comparison]:
    """Compare paired values, shape [n, measures] each: one comparison a measure."""
    difference = challenger - champion
    values = np.concatenate([champion, challenger, difference], axis=1)
    p = randomisation_p(difference, settings.permutations, settings.seed)
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
            champion_low=float(lows[0, m]),
            champion_high=float(highs[0, m]),
            challenger_low=float(lows[1, m]),
            challenger_high=float(highs[1, m]),
        )
        for m in range(difference.shape[1])
    ]
