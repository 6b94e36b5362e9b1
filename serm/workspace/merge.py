"""New judgments into the state: which one of a pair stands, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.atomic import recover
from serm.errors import UserError
from serm.layout import SUPERSEDED

Pair = tuple[str, str, str]
"""Query, locale, doc_id."""

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


def keep(new: pa.Table, judgments: Path) -> pa.Table:
    """Merge ``new`` into the dataset ``judgments`` and return all of it; judgments that no longer stand are kept too.

    They go to the dataset beside it that ``layout.SUPERSEDED`` names, with their grade, source and cycle. A second call
    changes nothing, also after one that was cut short.
    """
    recover(judgments)
    earlier = contracts.JUDGMENTS.empty_table()
    if judgments.exists():
        earlier = contracts.read(judgments, contracts.JUDGMENTS)
    both = merged(earlier, new)
    _trace(_missing(earlier, both), judgments)
    contracts.write(both, judgments, contracts.JUDGMENTS)
    return both


def correct(judgments: Path, pair: Pair, grade: int, by: str, why: str, cycle: int) -> pa.Table:
    """Give a pair a person's grade, whatever it had, and return all judgments; the earlier one is kept, as by ``keep``.

    Args:
        judgments: the dataset to mend.
        pair: which pair; it need not be judged yet.
        grade: 0 to 3.
        by: who says so.
        why: the reason, which becomes the judgment's rationale.
        cycle: the cycle in which it is said.
    """
    values = dict(zip(_KEY, pair, strict=True)) | {"grade": grade, "source": "human", "cycle": cycle}
    rows = pa.Table.from_pylist([values | {"rationale": f"{by}: {why}"}], schema=contracts.JUDGMENTS)
    return keep(rows, judgments)


def retire(judgments: Path, pair: Pair, by: str, why: str) -> pa.Table:
    """Take the judgment of a pair out, and return all others; it is kept beside them, with who took it out and why.

    Raises:
        UserError: there is no judgment of the pair.
    """
    recover(judgments)
    earlier = contracts.read(judgments, contracts.JUDGMENTS)
    ours = [pc.equal(earlier[name], value) for name, value in zip(_KEY, pair, strict=True)]
    found = pc.and_(pc.and_(ours[0], ours[1]), ours[2])
    lost = earlier.filter(found)
    if not lost.num_rows:
        raise UserError(f"{judgments}: no judgment of query {pair[0]!r} ({pair[1]}) with doc_id {pair[2]!r}.")
    column = lost.column_names.index("rationale")
    _trace(lost.set_column(column, "rationale", pa.array([f"retired by {by}: {why}"] * lost.num_rows)), judgments)
    others = earlier.filter(pc.invert(found))
    contracts.write(others, judgments, contracts.JUDGMENTS)
    return others


def _trace(lost: pa.Table, judgments: Path) -> None:
    """Add judgments that no longer stand to those kept beside the dataset."""
    if not lost.num_rows:
        return
    trace = judgments.with_name(SUPERSEDED.name)
    before = contracts.JUDGMENTS.empty_table()
    if trace.exists():
        before = contracts.read(trace, contracts.JUDGMENTS)
    rows = pa.concat_tables([before, _missing(lost, before).cast(before.schema)])
    contracts.write(rows.sort_by([(name, "ascending") for name in _SAME]), trace, contracts.JUDGMENTS)


def _missing(rows: pa.Table, there: pa.Table) -> pa.Table:
    """Return those of ``rows`` that are not in ``there``, in their order."""
    keys = rows.select(_SAME).append_column("_row", pa.array(range(rows.num_rows), pa.int64()))  # a join takes no lists
    left = keys.join(there.select(_SAME), keys=_SAME, join_type="left anti")
    return rows.take(left["_row"].take(pc.sort_indices(left["_row"])))
