"""The grades of judged pairs in one file, so that a pair that users ask again is ranked by what is known of it too.

A model is trained to be right on pairs that nobody judged; of those that somebody did, it remembers less than the
judgment says (docs/does-it-evolve.md#what-is-asked-next).
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.pairs.distributions import distributions
from serm.pairs.text import fold, folded
from serm.serving.stores import opened, writing
from serm.step import Figures

_LOG = logging.getLogger(__name__)
_APPLICATION = 0x5345524A
"""SQLite's application_id of such a file: SERJ in ASCII."""
_CHUNK = 50_000


def write(judgments: Path, out: Path) -> Figures:
    """Write the judgment store ``out`` of the dataset ``judgments`` (JUDGMENTS), atomically.

    A pair's grade is the expected one, 0 to 3, of its distribution, or the grade itself where that is certain. Queries
    that fold to one text (case, width, white space) are one; where they have a document's judgments twice, it has their
    mean.

    Returns:
        Figures: pairs, queries, and the file's megabytes.

    Raises:
        UserError: there is no such dataset, or the file cannot be written.
    """
    table = contracts.read(judgments, contracts.JUDGMENTS)
    graded = pa.table({"query": folded(table["query"]), "doc_id": table["doc_id"], "grade": expected(table)})
    pairs = graded.group_by(["query", "doc_id"]).aggregate([("grade", "mean")]).sort_by([("query", "ascending")])
    with writing(out, _APPLICATION) as file:
        file.execute(
            "CREATE TABLE judgments (query TEXT, doc_id TEXT, grade REAL NOT NULL, PRIMARY KEY (query, doc_id)) "
            "WITHOUT ROWID"
        )
        for part in pairs.to_batches(max_chunksize=_CHUNK):
            rows = zip(*(part[name].to_pylist() for name in ("query", "doc_id", "grade_mean")), strict=True)
            file.executemany("INSERT INTO judgments VALUES (?, ?, ?)", rows)
    queries = len(pairs["query"].unique())
    return {"pairs": pairs.num_rows, "queries": queries, "megabytes": round(out.stat().st_size / 1e6, 1)}


def expected(judgments: pa.Table) -> pa.Array:
    """Return the expected grade, 0 to 3, of each of the ``judgments`` (JUDGMENTS)."""
    grades = distributions(judgments) @ np.arange(len(contracts.Grade))
    return pa.array(grades.clip(0, len(contracts.Grade) - 1))  # shares are rounded: they may add up to a little more


class JudgmentStore:
    """An open judgment store; one thread at a time may ask it."""

    def __init__(self, path: Path) -> None:
        """Open the file ``path``.

        Raises:
            UserError: it is no judgment store.
        """
        self._path = path
        self._file = opened(path, _APPLICATION, "SELECT query, doc_id, grade FROM judgments", "judgment")

    def grades(self, query: str, ids: Sequence[str]) -> Mapping[str, float]:
        """Return the expected grades, 0 to 3, of those of the documents ``ids`` that are judged for ``query``.

        Nothing where the file is damaged, which the log says: a model ranks without.
        """
        asked = "SELECT doc_id, grade FROM judgments WHERE query = ? AND doc_id IN (SELECT value FROM json_each(?))"
        try:
            return dict(self._file.execute(asked, (fold(query), json.dumps(list(ids)))))
        except sqlite3.Error as error:
            _LOG.error("%s: cannot be read (%s); nothing counts as judged", self._path, error)
            return {}

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
