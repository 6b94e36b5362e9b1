"""``serm record``."""

from __future__ import annotations

from serm.cli.options import HERE, Json, Params, WorkspacePath, show
from serm.workspace.layout import CYCLE, PARAMS


def record(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag a window in which nothing drifted, in the place of a cycle."""
    from serm import settings
    from serm.monitoring import snapshots
    from serm.workspace.layout import WATCH
    from serm.workspace.record import record

    outputs = {step: workspace / CYCLE / step for step in WATCH}
    figures = record(workspace, outputs, settings.load(params))
    snapshots.add(workspace, str(figures["tag"]), workspace / CYCLE / "drift" / "snapshot.json")
    show("record", figures, json)
