"""What ``dvc metrics`` and ``dvc plots`` read of an evaluation: few numbers, each under a name that stays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from serm.evaluation.compare import ALL
from serm.evaluation.measured import Measured
from serm.pairs.test_sets import SERVED

Sets = Mapping[tuple[str, str], Measured]
"""(set, documents) -> what was measured on it."""
_SHOWN = ("champion", "challenger", "difference")


def metrics(sets: Sets, gate: str, cycle: int) -> dict[str, Any]:
    """Return the means over all queries: set -> documents -> measure -> champion, challenger, difference.

    ``cycle`` says whose they are: a quiet window's tag still has the last challenger's.
    """
    found: dict[str, Any] = {"cycle": cycle, "passed": int(gate == "passed")}
    for (name, documents), one in sets.items():
        means = one.compared[ALL].get("all", {})
        found.setdefault(name, {})[documents] = {
            measure: {shown: _number(getattr(compared, shown)) for shown in _SHOWN}
            for measure, compared in means.items()
        }
    return found


def slices(sets: Sets, measure: str) -> list[dict[str, Any]]:
    """Return a row for each slice of what the rolling set's queries are served: slice, n, and ``measure`` by model."""
    return [
        {"slice": name, "n": one.n, "champion": _number(one.champion), "challenger": _number(one.challenger)}
        for name, by_measure in sets["rolling", SERVED].compared[ALL].items()
        if (one := by_measure.get(measure))
    ]


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
