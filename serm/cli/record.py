"""``serm record``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Json, Params, show
from serm.workspace.layout import CYCLE, PARAMS, WATCH


def record(params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag a window in which nothing drifted, in the place of a cycle."""
    from serm import settings
    from serm.monitoring import snapshots
    from serm.workspace.record import record

    root = Path.cwd()
    given = settings.load(params)
    figures = record(root, {step: root / CYCLE / step for step in WATCH}, given)
    snapshots.add(root, given.cycle.name, root / CYCLE / "drift" / "snapshot.json")
    show("record", figures, json)
