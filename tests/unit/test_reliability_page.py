"""docs/reliability.md names tests: each is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_that_the_page_names_is_there() -> None:
    lacking, named = [], 0
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        file = ""
        for path, function in re.findall(r"(tests/[\w/]+\.py)|::(\w+)", row):
            if path:
                file = path
                source = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
                if not source:
                    lacking.append(path)
            else:
                named += 1
                if f"def {function}(" not in source:
                    lacking.append(f"{file}::{function}")
    assert lacking == []
    assert named > 50
