"""How often each pair was shown and clicked at each position, counted by the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis
import numpy as np
from numpy.typing import NDArray

from serm.errors import UserError

if TYPE_CHECKING:
    from ibis.expr.types import Scalar

#: The columns that name a pair. The same document may answer a query differently in another locale.
PAIR = ("query", "locale", "doc_id")
#: The columns that name an impression.
IMPRESSION = ("user_id", *PAIR, "query_id", "position")


def count(impressions: ibis.Table, **aggregates: Scalar) -> ibis.Table:
    """Reduce a log to one row for each pair and position.

    Args:
        impressions: a table with the columns of ``contracts.IMPRESSIONS``.
        aggregates: further aggregates of ``impressions`` to take in the same pass.

    Returns:
        query, locale, doc_id, position, impressions, clicks, the further aggregates, and ``pair``: a number
        from 0 for each pair, in the order of its three names.
    """
    counts = impressions.group_by(*PAIR, "position").aggregate(
        impressions=impressions.count(), clicks=impressions.clicked.sum(), **aggregates
    )
    return counts.mutate(pair=ibis.dense_rank().over(order_by=PAIR))


def beyond(impressions: ibis.Table, per_user: int) -> ibis.Table:
    """Return what one user saw of a pair after the first ``per_user`` times: the columns of ``IMPRESSION``.

    ``impressions`` without them (an anti join) are what users as a whole say: a robot that searches 100,000 times has
    no more of a voice than a busy person. Most logs have none, and only users of many rows are sorted.

    Args:
        impressions: a table with the columns of ``contracts.IMPRESSIONS``.
        per_user: impressions of a pair that count of one user, 1 or more; the earliest do.
    """
    asked = ("user_id", "locale", "query")
    searches = impressions.group_by(*asked).aggregate(rows=impressions.count())
    theirs = impressions.semi_join(searches.filter(searches.rows > per_user), asked)
    turn = ibis.row_number().over(group_by=("user_id", *PAIR), order_by=("event_time", "query_id", "position"))
    numbered = theirs.select(*IMPRESSION, turn=turn)
    return numbered.filter(numbered.turn >= per_user).select(*IMPRESSION)


@dataclass(frozen=True)
class ClickCounts:
    """How often each pair was shown and clicked at each position: four arrays of equal length.

    ``pair`` counts from 0 and ``position`` from 1, as in the log.
    """

    pair: NDArray[np.int64]
    position: NDArray[np.int64]
    impressions: NDArray[np.int64]
    clicks: NDArray[np.int64]

    @classmethod
    def read(cls, counts: ibis.Table) -> ClickCounts:
        """Bring the numbers of ``count`` into memory, in a fixed order, 32 bytes a row.

        Raises:
            UserError: there are no rows, or a position is missing or below 1.
        """
        rows = counts.select("pair", "position", "impressions", "clicks").order_by("pair", "position")
        table = rows.to_pyarrow()
        if table["position"].null_count:
            raise UserError("impressions: rows without a position found; run `serm validate`, which quarantines them.")
        columns = (table[name].to_numpy().astype(np.int64, copy=False) for name in table.column_names)
        pair, position, impressions, clicks = columns
        if not len(pair):
            raise UserError("impressions: no rows in this window; check cycle.start and cycle.end.")
        if position.min() < 1:
            raise UserError(f"impressions: position {position.min()} found; positions count from 1.")
        return cls(pair, position, impressions, clicks)

    @property
    def pairs(self) -> int:
        """How many pairs the numbers in ``pair`` span."""
        return int(self.pair.max()) + 1

    def expected_clicks(self) -> NDArray[np.float64]:
        """Return [pairs]: the clicks that the average document would have had at each pair's positions."""
        # Numbered among those that occur, of which there are no more than rows, however deep they lie.
        positions, at = np.unique(self.position, return_inverse=True)
        shown, clicks = (np.bincount(at, of_all, len(positions)) for of_all in (self.impressions, self.clicks))
        expected = self.impressions.astype(np.float64) * (clicks / np.maximum(shown, 1))[at]
        return np.bincount(self.pair, expected, self.pairs).astype(np.float64)
