"""Who made the test sets' judgments, and in which cycles: a judge that marks its own exam is said to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from serm import contracts
from serm.pairs.test_sets import FROZEN, MADE, SERVED, SETS, datasets


def counts(tests: Path) -> dict[str, dict[str, Any]]:
    """Return set -> ``queries`` (cycle -> how many) and ``pairs`` (source -> how many), of what is served.

    Of a frozen set that was renewed, ``version`` too: its number and since which cycle it decides.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for name, _ in datasets(tests)):
        table = _served(tests, name)
        queries = table.group_by(["locale", "query"]).aggregate([("cycle", "min")])["cycle_min"].to_pylist()
        found[name] = {
            "queries": {str(cycle): count for cycle, count in sorted(Counter(queries).items())},
            "pairs": dict(sorted(Counter(table["source"].to_pylist()).items())),
        }
    if version := _read(tests / FROZEN):
        found["frozen"]["version"] = version
    return found


def told(tests: Path) -> str:
    """Say how much of what decides a panel judged, and how people found it; nothing where people judged it all."""
    tables = {name: _served(tests, name) for name in SETS}
    panels = {name: table["source"].to_pylist().count("panel") for name, table in tables.items()}
    if not any(panels.values()):
        return ""
    of = ", ".join(
        f"{panels[name]:,} of {table.num_rows:,} served pairs of the {name} set" for name, table in tables.items()
    )
    sample = _read(tests / MADE).get("sample")
    agreed = "No person has graded a sample of them."
    if isinstance(sample, dict) and sample.get("pairs"):
        agreed = f"Of a sample of {sample['pairs']:,} people graded {sample['same']:,} alike."
    return (
        f"A panel of judges graded {of}, as a panel graded what the challenger learnt from: where they are the same"
        f" judges, they mark their own exam. {agreed}"
    )


def _served(tests: Path, name: str) -> pa.Table:
    return contracts.read(datasets(tests)[name, SERVED], contracts.JUDGMENTS)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
