"""What the models put first: the top of each ranking, and the queries that won and lost most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serm.evaluation import measures
from serm.evaluation.compare import Numbered
from serm.settings import EvaluationSettings

MODELS = ("champion", "challenger")
EXAMPLES = 5
"""Wins, and losses, that are shown."""
SHOWN = 5
"""Documents of each ranking that are shown."""
TITLE = 120
"""Characters of a title that are kept."""


def rankings(pool: Numbered, test: tuple[str, str], settings: EvaluationSettings) -> pa.Table:
    """Return the first documents of each query and model, as far as the largest cutoff.

    ``test`` is the set and its documents, such as ``("rolling", "served")``. A table of
    ``contracts.RANKINGS``; ties as the measures have them.
    """
    number, tables = pool.number, []
    for model in MODELS:
        order = measures.ranking(number, pool.rows[model].to_numpy(), settings.seed)
        rank = np.arange(1, len(order) + 1) - np.searchsorted(number[order], number[order])
        top = rank <= max(settings.cutoffs)
        rows = pool.rows.take(pa.array(order[top]))
        tables.append(
            pa.table(
                {column: rows[column] for column in ("locale", "query", "doc_id", "grade")}
                | {
                    column: pa.array([value] * rows.num_rows, pa.string())
                    for column, value in zip(("set", "documents", "model"), (*test, model), strict=True)
                }
                | {"rank": pa.array(rank[top], pa.int32()), "score": rows[model]}
                | {"title": pc.utf8_slice_codeunits(rows["title"], 0, TITLE)}
            )
        )
    return pa.concat_tables(tables)


def biggest(measured: pa.Table, ranked: pa.Table, settings: EvaluationSettings) -> dict[str, list[dict[str, Any]]]:
    """Return ``wins`` and ``losses``: the queries whose gate measure rose and fell most, with both rankings.

    Args:
        measured: rows of ``compare.per_query`` over all pairs, of one or several sets and one choice of documents.
        ranked: rows of ``rankings`` of the same sets and documents.
        settings: names the gate measure.
    """
    rows = measured.filter(pc.equal(measured["measure"], settings.gate_measure))
    difference = pc.subtract(rows["challenger"], rows["champion"])
    rows = rows.append_column("difference", difference)
    found = {}
    for side, order in (("wins", "descending"), ("losses", "ascending")):
        chosen = rows.filter((pc.greater if side == "wins" else pc.less)(rows["difference"], 0))
        chosen = chosen.sort_by([("difference", order), *((key, "ascending") for key in ("set", "locale", "query"))])
        found[side] = [_example(row, ranked) for row in chosen.slice(0, EXAMPLES).to_pylist()]
    return found


def _example(row: dict[str, Any], ranked: pa.Table) -> dict[str, Any]:
    key = ("set", "locale", "query")
    same = [pc.equal(ranked[name], row[name]) for name in key]
    mine = ranked.filter(pc.and_(pc.and_(same[0], same[1]), same[2])).to_pylist()
    shown = {
        model: [
            {name: one[name] for name in ("doc_id", "title", "grade")}
            for one in mine
            if one["model"] == model and one["rank"] <= SHOWN
        ]
        for model in MODELS
    }
    return {name: row[name] for name in key} | {
        model: {"value": round(row[model], 4), "documents": shown[model]} for model in MODELS
    }
