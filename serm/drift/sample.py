"""Bounded samples of windows and catalogues, drawn in the engine: whole users, and documents by a hash.

Rows of one page, and pages of one user, depend on each other; users hardly do. So whole users are drawn, and whole
users are what the tests exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm.contracts import CATALOGUES, SAMPLES
from serm.settings import DriftSettings

Codes = NDArray[np.int64]


def draw_users(impressions: ibis.Table, cycle: int, settings: DriftSettings) -> pa.Table:
    """Return SAMPLES of ``settings.sample_users`` users of the IMPRESSIONS, other ones in every ``cycle``.

    Of a user with more than ``settings.searches_a_user`` searches, so many are drawn.
    """
    salt = ibis.literal(f"{settings.seed} {cycle} ")
    users = impressions.select("user_id").distinct()
    drawn = users.order_by((salt + users.user_id).hexdigest("md5"), "user_id").limit(settings.sample_users)
    shown = impressions.semi_join(drawn, "user_id")
    searches = shown.select("user_id", "query_id").distinct()
    turn = ibis.row_number().over(
        group_by="user_id", order_by=[(salt + searches.query_id).hexdigest("md5"), searches.query_id]
    )
    kept = searches.mutate(turn=turn).filter(lambda row: row.turn < settings.searches_a_user).select("query_id")
    rows = shown.semi_join(kept, "query_id").select(*SAMPLES.names[1:])
    return _of_cycle(rows.order_by("user_id", "query_id", "position", "clicked", "score"), cycle, SAMPLES)


def draw_documents(documents: ibis.Table, cycle: int, settings: DriftSettings) -> pa.Table:
    """Return CATALOGUES of the ``settings.sample_documents`` DOCUMENTS whose ids hash lowest."""
    rows = documents.select(*CATALOGUES.names[1:])
    hashed = (ibis.literal(f"{settings.seed} ") + rows.doc_id).hexdigest("md5")
    return _of_cycle(rows.order_by(hashed, "doc_id").limit(settings.sample_documents), cycle, CATALOGUES)


def _of_cycle(rows: ibis.Table, cycle: int, schema: pa.Schema) -> pa.Table:
    found = rows.to_pyarrow()
    return found.add_column(0, schema.field("cycle"), pa.repeat(cycle, len(found)).cast("int32")).cast(schema)


@dataclass(frozen=True)
class Windows:
    """Samples of some earlier windows and of this one, the last; users and searches are numbered over all of them."""

    rows: pa.Table
    """SAMPLES, in the order of cycles."""

    @cached_property
    def cycles(self) -> list[int]:
        """The cycles of the windows, this one last."""
        return sorted(pc.unique(self.rows["cycle"]).to_pylist())

    @cached_property
    def _numbered(self) -> tuple[Codes, Codes]:
        window = np.searchsorted(self.cycles, self.rows["cycle"].to_numpy())
        users, queries = (codes(self.rows[name]) for name in ("user_id", "query_id"))
        return _renumbered(window, users), _renumbered(window, queries)

    @cached_property
    def search(self) -> Codes:
        """[impressions] the number of each one's search."""
        return self._numbered[1]

    @cached_property
    def _first(self) -> Codes:
        """[searches] the row of each search's first impression."""
        return np.unique(self.search, return_index=True)[1]

    @cached_property
    def user(self) -> Codes:
        """[searches] the number of each one's user; a user of two windows is two."""
        return self._numbered[0][self._first]

    @cached_property
    def window(self) -> Codes:
        """[users] the number of each one's window, from 0; this window is the last."""
        cycle = np.zeros(self.user.max() + 1, np.int64)
        cycle[self.user] = self.rows["cycle"].to_numpy()[self._first]
        return np.searchsorted(self.cycles, cycle)

    def column(self, name: str) -> list[Any]:
        """Return a column's values by search."""
        values: list[Any] = self.rows[name].take(pa.array(self._first)).to_pylist()
        return values

    @cached_property
    def queries(self) -> list[tuple[str, str]]:
        """The distinct queries: (locale, text)."""
        return sorted(set(zip(self.column("locale"), self.column("query"), strict=True)))

    @cached_property
    def query(self) -> Codes:
        """[searches] the number of each one's query."""
        number = {query: i for i, query in enumerate(self.queries)}
        asked = zip(self.column("locale"), self.column("query"), strict=True)
        return np.array([number[query] for query in asked], np.int64)


def together(earlier: Sequence[pa.Table], now: pa.Table) -> Windows:
    """Put SAMPLES of earlier windows and of this one together."""
    rows = pa.concat_tables([*earlier, now]).combine_chunks()
    return Windows(rows.take(pc.sort_indices(rows, [("cycle", "ascending")])))


def _renumbered(window: Codes, code: Codes) -> Codes:
    """Number the pairs of window and code from 0, in their order."""
    numbers: Codes = np.unique(window * (code.max() + 1) + code, return_inverse=True)[1]
    return numbers


def codes(column: pa.ChunkedArray) -> Codes:
    """Number the values of a column from 0; equal values have one number."""
    numbers: Codes = pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)
    return numbers
