"""Measures of a ranking, one value a query: by ir-measures, and pairwise accuracy, which it does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import AP, RR, P, nDCG
from numpy.typing import NDArray

from serm.settings import EvaluationSettings

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PAIRWISE = "pairwise accuracy"


def names(settings: EvaluationSettings) -> list[str]:
    """Return the names of all measures: NDCG@k, AP, RR, P@k and pairwise accuracy."""
    return [*_catalogue(settings), PAIRWISE]


def measure(queries: Integers, grades: Integers, scores: Floats, settings: EvaluationSettings) -> NDArray[np.float64]:
    """Return each query's value, 0 to 1, of each measure in the order of ``names``, shape [queries, measures].

    AP, RR and P@k take a document as relevant from ``settings.relevant_grade`` on; a query without one has 0. Their
    means over queries are MAP and MRR. Pairwise accuracy is the share of the query's document pairs of different
    grades that are ranked rightly (1 for a query without such a pair). Other arguments as in ``ndcg``.
    """
    order = ranking(queries, scores, settings.seed)
    listed = _by_ir_measures(queries, grades, order, _catalogue(settings))
    return np.column_stack([listed, _pairwise(queries[order], grades[order])])


def ndcg(
    queries: Integers,
    grades: Integers,
    scores: Floats,
    cutoffs: Sequence[int],
    seed: int,
) -> Floats:
    """Return NDCG of each query at each cutoff, 0 to 1, shape [number of queries, len(cutoffs)].

    The gain is the grade itself and the discount log2(rank + 1) (Järvelin and Kekäläinen 2002, as trec_eval and
    its binding pytrec_eval have it); the exponential gain 2^grade - 1 would weigh excellent documents more. The
    ideal ranking is that of the query's own rows. A query without a grade above 0 has NDCG 0.

    Args:
        queries: for each row (a judged document) its query as a number, 0 to the number of queries - 1; shape [n].
        grades: 0 to 3, shape [n].
        scores: what the ranking is by, highest first, shape [n].
        cutoffs: the ranks k of NDCG@k.
        seed: of the shuffle of equal scores; see ``ranking``.
    """
    return _by_ir_measures(queries, grades, ranking(queries, scores, seed), {str(k): nDCG @ k for k in cutoffs})


def ranking(queries: Integers, scores: Floats, seed: int) -> Integers:
    """Return the rows in the order of their query and then of their rank, highest score first, shape [n].

    Equal scores are ordered by a seeded shuffle: file order often follows the grades, and would inflate measures. The
    same seed orders the ties of two models alike.
    """
    tie_break = np.random.default_rng(seed).permutation(len(scores))
    return np.lexsort((tie_break, -scores, queries))


def _catalogue(settings: EvaluationSettings) -> dict[str, ir_measures.Measure]:
    relevant = settings.relevant_grade
    return {
        **{f"NDCG@{k}": nDCG @ k for k in settings.cutoffs},
        "AP": AP(rel=relevant),
        "RR": RR(rel=relevant),
        **{f"P@{k}": P(rel=relevant) @ k for k in settings.precision_cutoffs},
    }


def _by_ir_measures(
    queries: Integers, grades: Integers, order: Integers, wanted: Mapping[str, ir_measures.Measure]
) -> Floats:
    # trec_eval breaks ties by its own rule and keeps 32 bits of a score: give it distinct small integers instead.
    descending = np.empty(len(order))
    descending[order] = np.arange(len(order), 0, -1)

    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, (query, grade, value) in enumerate(
        zip(queries.tolist(), grades.tolist(), descending.tolist(), strict=True)
    ):
        qrels.setdefault(str(query), {})[str(row)] = grade
        run.setdefault(str(query), {})[str(row)] = value
    columns = {one: column for column, one in enumerate(wanted.values())}
    values = np.zeros((len(qrels), len(columns)))
    for metric in ir_measures.pytrec_eval.evaluator(list(columns), qrels).iter_calc(run):
        values[int(metric.query_id), columns[metric.measure]] = metric.value
    return values


def _pairwise(queries: Integers, grades: Integers) -> Floats:
    """Return the pairwise accuracy of queries whose rows are sorted by query and rank.

    A row wins over the rows of a lower grade that are ranked below it: those of its query less those above it.
    """
    number = int(queries.max(initial=-1)) + 1
    right, pairs = np.zeros(number), np.zeros(number)
    for grade in range(1, 4):
        lower = grades < grade
        above = np.concatenate([[0], np.cumsum(lower)])
        rows = np.flatnonzero(grades == grade)
        last, first = (np.searchsorted(queries, queries[rows], side) for side in ("right", "left"))
        right += np.bincount(queries[rows], above[last] - above[rows], number)
        pairs += np.bincount(queries[rows], above[last] - above[first], number)
    return np.divide(right, pairs, out=np.ones(number), where=pairs > 0)
