"""What KFP's page of a run draws of the panel's labels."""

from __future__ import annotations

import json
from pathlib import Path


def confusion(annotated: Path) -> tuple[list[str], list[list[int]]]:
    """Return the grades, and how the panel of ``serm annotate`` labelled gold: a row a true grade, a column a label.

    Gold are seed judgments that no judge was shown (``gold`` in annotate.json).
    """
    told = json.loads((annotated / "annotate.json").read_text(encoding="utf-8"))
    counted: list[list[int]] = told["gold"]["confusion"]
    return [str(grade) for grade in range(len(counted))], counted
