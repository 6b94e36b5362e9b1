"""docs/scale.md: each coefficient is what its benchmark's result file says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def _at(found: Any, path: str) -> float:
    for key in re.findall(r"\d{1,3}(?:,\d{3})+|[^.]+", path):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return float(found)


def test_each_coefficient_is_what_its_benchmark_measured() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| ([\d.]+) \| (\w+\.json) \| (.+) \| (.+) \|$", page, re.M)
    assert len(rows) == 9
    for told, file, over, of in rows:
        result = json.loads((ROOT / "benchmarks/results" / file).read_text(encoding="utf-8"))
        measured = 1e6 * _at(result, over) / _at(result, of)
        assert f"{measured:.2g}" == f"{float(told):.2g}", f"{file}: {over}: {measured}"
