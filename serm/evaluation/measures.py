"""NDCG for each query, computed by ir-measures."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures
import numpy as np
from ir_measures import nDCG
from numpy.typing import NDArray


def ndcg(
    queries: NDArray[np.int64],
    grades: NDArray[np.int64],
    scores: NDArray[np.float64],
    cutoffs: Sequence[int],
    seed: int,
) -> NDArray[np.float64]:
    """Return NDCG of each query at each cutoff, 0 to 1, shape [number of queries, len(cutoffs)].

    The gain is the grade itself and the discount log2(rank + 1) (Järvelin and Kekäläinen 2002, as trec_eval and
    its binding pytrec_eval have it); the exponential gain 2^grade - 1 would weigh excellent documents more. The
    ideal ranking is that of the query's own rows. Equal scores are ordered by a seeded shuffle: file order often
    follows the grades, and would inflate NDCG. A query without a grade above 0 has NDCG 0.

    Args:
        queries: for each row (a judged document) its query as a number, 0 to the number of queries - 1; shape [n].
        grades: 0 to 3, shape [n].
        scores: what the ranking is by, highest first, shape [n].
        cutoffs: the ranks k of NDCG@k.
        seed: of the shuffle; the same seed orders the ties of two models alike.
    """
    tie_break = np.random.default_rng(seed).permutation(len(scores))
    order = np.lexsort((tie_break, -scores, queries))
    # trec_eval breaks ties by its own rule and keeps 32 bits of a score: give it distinct small integers instead.
    descending = np.empty(len(scores))
    descending[order] = np.arange(len(scores), 0, -1)

    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, (query, grade, value) in enumerate(
        zip(queries.tolist(), grades.tolist(), descending.tolist(), strict=True)
    ):
        qrels.setdefault(str(query), {})[str(row)] = grade
        run.setdefault(str(query), {})[str(row)] = value
    columns = {nDCG @ cutoff: column for column, cutoff in enumerate(cutoffs)}
    values = np.zeros((len(qrels), len(cutoffs)))
    for metric in ir_measures.pytrec_eval.evaluator(list(columns), qrels).iter_calc(run):
        values[int(metric.query_id), columns[metric.measure]] = metric.value
    return values
