"""New judgments into the state: which one of a pair stands, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.atomic import recover
from serm.layout import SUPERSEDED

RETIRED = "retired by "
"""How the rationale of a superseded judgment begins that a person took out."""
_KEY = ["query", "locale", "doc_id"]
_SAME = [*_KEY, "grade", "source", "cycle"]

#: Whose judgment of a pair stands: the first of these that judged it.
_RANK = ("human", "seed", "panel", "shown")


def merged(earlier: pa.Table, new: pa.Table) -> pa.Table:
    """Return one judgment a pair (query, locale, document) of both tables, sorted by that key.

    A person's stands before a seed judgment, that before a panel's of a mined pair, and that before one of a pair that
    users were only shown, whichever came first. Of two of a kind the one of the later cycle stands, and within a cycle
    the new one.
    """
    sides = [
        table.append_column("_rank", pc.index_in(table["source"], pa.array(_RANK))).append_column(
            "_side", pa.repeat(pa.scalar(side), table.num_rows)
        )
        for side, table in enumerate((earlier, new.select(earlier.column_names).cast(earlier.schema)))
    ]
    both = pa.concat_tables(sides)
    better = [*((name, "ascending") for name in (*_KEY, "_rank")), ("cycle", "descending"), ("_side", "descending")]
    both = both.take(pc.sort_indices(both, sort_keys=better))
    firsts = pa.repeat(pa.scalar(True), min(1, both.num_rows))
    if both.num_rows > 1:
        differs = [pc.not_equal(both[name].slice(1), both[name].slice(0, both.num_rows - 1)) for name in _KEY]
        changes = pc.or_(pc.or_(differs[0], differs[1]), differs[2])
        firsts = pa.concat_arrays([firsts, *changes.chunks])
    return both.filter(firsts).select(earlier.column_names).combine_chunks()


def keep(new: pa.Table, judgments: Path, trace: Path | None = None) -> pa.Table:
    """Merge ``new`` into the dataset ``judgments`` and return all of it; judgments that no longer stand are kept too.

    They go to the dataset ``trace``, or beside it to the one that ``layout.SUPERSEDED`` names, with their grade, source
    and cycle. A pair that a person retired is not brought back by a panel. A second call changes nothing, also after
    one that was cut short.
    """
    recover(judgments)
    trace = trace or judgments.with_name(SUPERSEDED.name)
    earlier = contracts.JUDGMENTS.empty_table()
    if judgments.exists():
        earlier = contracts.read(judgments, contracts.JUDGMENTS)
    both = merged(earlier, _not_retired(new, earlier, trace))
    add_trace(_missing(earlier, both, _SAME), trace)
    contracts.write(both, judgments, contracts.JUDGMENTS)
    return both


def _not_retired(new: pa.Table, earlier: pa.Table, trace: Path) -> pa.Table:
    """Return ``new`` without the panel's judgments of pairs that a person took out and nobody put back."""
    if not trace.exists():
        return new
    superseded = contracts.read(trace, contracts.JUDGMENTS)
    retired = superseded.filter(pc.fill_null(pc.starts_with(superseded["rationale"], RETIRED), False))
    by_panel = pc.is_in(new["source"], pa.array(["panel", "shown"]))
    allowed = _missing(new.filter(by_panel), _missing(retired, earlier, _KEY), _KEY)
    return pa.concat_tables([new.filter(pc.invert(by_panel)), allowed])


def add_trace(lost: pa.Table, trace: Path) -> None:
    """Add judgments that no longer stand to those kept in the dataset ``trace``."""
    if not lost.num_rows:
        return
    before = contracts.JUDGMENTS.empty_table()
    if trace.exists():
        before = contracts.read(trace, contracts.JUDGMENTS)
    rows = pa.concat_tables([before, _missing(lost, before, _SAME).cast(before.schema)])
    contracts.write(rows.sort_by([(name, "ascending") for name in _SAME]), trace, contracts.JUDGMENTS)


def _missing(rows: pa.Table, there: pa.Table, by: list[str]) -> pa.Table:
    """Return those of ``rows`` that are not in ``there``, told by the columns ``by``, in their order."""
    keys = rows.select(by).append_column("_row", pa.array(range(rows.num_rows), pa.int64()))  # a join takes no lists
    left = keys.join(there.select(by), keys=by, join_type="left anti")
    return rows.take(left["_row"].take(pc.sort_indices(left["_row"])))
