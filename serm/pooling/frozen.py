"""A new frozen test set: measured beside the old one in one cycle, then in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm import engine as engines
from serm.atomic import recover, replace_directory, write_json
from serm.errors import UserError
from serm.layout import HISTORY, JUDGMENTS, REFERENCE, TESTS
from serm.pairs.test_sets import DRAWN, FROZEN, NEXT, POOL, SERVED, served
from serm.pairs.text import folded
from serm.settings import Settings
from serm.step import Figures
from serm.workspace.progress import Progress, number
from serm.workspace.store import link_or_copy

PROPOSED = "proposed.json"
"""In the next set: after which cycle it was proposed."""


def propose(root: Path, judgments: pa.Table, settings: Settings) -> Figures:
    """Lay ``judgments`` (JUDGMENTS) beside the frozen set of the workspace ``root``, as the one that is to replace it.

    A query that a model has learnt from, or that is of the rolling set, in any spelling, is left out and counted. What
    of a query's documents the last window shows was served is its served list; where it shows none, all of them. The
    next cycle that evaluates measures both sets, and decides by the old one; ``settle`` then replaces it. Proposed
    again, the later set stands.

    Raises:
        UserError: no query is left, or a dataset of the workspace is missing.
    """
    tests = root / TESTS
    recover(tests)
    rolling = [contracts.read(tests / "rolling" / name, contracts.JUDGMENTS)["query"] for name in (SERVED, POOL)]
    if (tests / DRAWN).exists():
        rolling.append(contracts.read(tests / DRAWN, contracts.DRAWN)["query"])
    learnt = contracts.read(root / JUDGMENTS, contracts.JUDGMENTS)["query"]
    asked = folded(judgments["query"])
    is_learnt, is_rolling = (
        pc.is_in(asked, value_set=pc.unique(folded(of))) for of in (learnt, pa.chunked_array(_chunks(rolling)))
    )
    column = judgments.column_names.index("source")
    judged = judgments.set_column(
        column, "source", pc.if_else(pc.equal(judgments["source"], "panel"), "panel", "human")
    )
    pool = judged.filter(pc.invert(pc.or_(is_learnt, is_rolling)))
    if not pool.num_rows:
        raise UserError(
            f"none of the {_queries(judgments):,} queries can be tested on: models learnt from"
            f" {_queries(judgments.filter(is_learnt)):,} of them, and {_queries(judgments.filter(is_rolling)):,} are of"
            " the rolling set; judge queries that are in neither."
        )
    shown, unseen = served(pool, _shown(root, settings))
    after = Progress.read(root).after or "cycle-0000"
    figures: Figures = {
        "queries": _queries(pool),
        "pairs": pool.num_rows,
        "served_pairs": shown.num_rows,
        "queries_with_assumed_lists": unseen,
        "learnt_queries_left_out": _queries(judgments.filter(is_learnt)),
        "rolling_queries_left_out": _queries(judgments.filter(is_rolling)),
        "frozen_queries_before": _queries(contracts.read(tests / "frozen" / POOL, contracts.JUDGMENTS)),
    }
    with replace_directory(tests) as beside:
        _copy(tests, beside, NEXT)
        for name, table in ((SERVED, shown), (POOL, pool)):
            contracts.write(table, beside / NEXT / name, contracts.JUDGMENTS)
        write_json(beside / NEXT / PROPOSED, {"after": after, **figures})
    return figures


def settle(root: Path) -> Figures:
    """Put the next frozen set in the place of the old one, if a cycle since it was proposed has measured both.

    The old one stays in DVC under that cycle's tag.

    Returns:
        ``frozen_version`` and ``since``, or nothing where nothing changed.
    """
    tests = root / TESTS
    recover(tests)
    after = Progress.read(root).after
    if not (tests / NEXT).is_dir() or after is None:
        return {}
    proposed = json.loads((tests / NEXT / PROPOSED).read_text(encoding="utf-8"))["after"]
    measured = [n for n in range(number(proposed) + 1, number(after) + 1) if _measured(root, n)]
    if not measured:
        return {}
    known: dict[str, Any] = {}
    if (tests / FROZEN).exists():
        known = json.loads((tests / FROZEN).read_text(encoding="utf-8"))
    version, since = int(known.get("version", 1)) + 1, f"cycle-{number(after) + 1:04d}"
    with replace_directory(tests) as beside:
        _copy(tests, beside, NEXT, "frozen")
        shutil.copytree(tests / NEXT, beside / "frozen", copy_function=link_or_copy)
        (beside / "frozen" / PROPOSED).unlink()
        both = f"cycle-{measured[-1]:04d}"
        write_json(beside / FROZEN, {"version": version, "since": since, "measured_beside_the_last": both})
    return {"frozen_version": version, "since": since}


def _measured(root: Path, cycle: int) -> bool:
    """Tell whether a cycle measured the next set; a quiet one measured none."""
    path = root / HISTORY / f"cycle-{cycle:04d}" / "evaluate.json"
    return path.exists() and NEXT in json.loads(path.read_text(encoding="utf-8"))["sets"]


def _copy(tests: Path, beside: Path, *but: str) -> None:
    """Copy the test sets, but those named."""
    skip = shutil.ignore_patterns(*but)
    shutil.copytree(
        tests,
        beside,
        copy_function=link_or_copy,
        dirs_exist_ok=True,
        ignore=lambda at, names: skip(at, names) if Path(at) == tests else set(),
    )


def _shown(root: Path, settings: Settings) -> pa.Table:
    """Return what the last window shows was served: locale, query (folded), doc_id."""
    with engines.connect(settings.engine) as engine:
        rows = contracts.scan(engine, root / REFERENCE, contracts.IMPRESSIONS)
        pairs = engine.to_pyarrow(rows.select("locale", "query", "doc_id").distinct())
    column = pairs.column_names.index("query")
    return pairs.set_column(column, "query", folded(pairs["query"]))


def _queries(table: pa.Table) -> int:
    return int(table.group_by(["locale", "query"]).aggregate([]).num_rows)


def _chunks(columns: list[pa.ChunkedArray]) -> list[pa.Array]:
    return [chunk for column in columns for chunk in column.chunks]
