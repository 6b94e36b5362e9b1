"""New judgments into the state: which one of a pair stands, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.atomic import recover
from serm.layout import SUPERSEDED

_KEY = ["query", "locale", "doc_id"]
_SAME = [*_KEY, "grade", "source", "cycle"]

#: Whose judgment of a pair stands: the first of these that judged it.
_RANK = ("human", "seed", "panel")


def merged(earlier: pa.Table, new: pa.Table) -> pa.Table:
    """Return one judgment a pair (query, locale, document) of both tables, sorted by that key.

    A person's stands before a seed judgment, and that before a panel's, whichever came first. Of a person's two the one
    of the later cycle stands, and within a cycle the new one; of two seed or two panel judgments the earlier one.
    """
    human = pa.scalar("human")
    sides = []
    for side, table in enumerate((earlier, new.select(earlier.column_names).cast(earlier.schema))):
        rank = pc.index_in(table["source"], pa.array(_RANK))
        turned = pc.if_else(pc.equal(table["source"], human), pa.scalar(-1, pa.int64()), pa.scalar(1, pa.int64()))
        cycle = pc.multiply(table["cycle"].cast(pa.int64()), turned)
        sides.append(
            table.append_column("_rank", rank)
            .append_column("_cycle", cycle)
            .append_column("_side", pc.multiply(turned, pa.scalar(side, pa.int64())))
        )
    both = pa.concat_tables(sides)
    order = [*_KEY, "_rank", "_cycle", "_side"]
    both = both.take(pc.sort_indices(both, sort_keys=[(name, "ascending") for name in order]))
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
    lost = earlier.join(both.select(_SAME), keys=_SAME, join_type="left anti")
    if lost.num_rows:
        trace = judgments.with_name(SUPERSEDED.name)
        before = contracts.JUDGMENTS.empty_table()
        if trace.exists():
            before = contracts.read(trace, contracts.JUDGMENTS)
        added = lost.join(before.select(_SAME), keys=_SAME, join_type="left anti").select(before.column_names)
        rows = pa.concat_tables([before, added.cast(before.schema)])
        contracts.write(rows.sort_by([(name, "ascending") for name in _SAME]), trace, contracts.JUDGMENTS)
    contracts.write(both, judgments, contracts.JUDGMENTS)
    return both
