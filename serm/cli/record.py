"""``serm record``."""

from __future__ import annotations

from serm.cli.options import CYCLE, HERE, PARAMS, Json, Params, WorkspacePath, show


def record(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag a window in which nothing drifted, in the place of a cycle."""
    from serm import settings, versioning
    from serm.monitoring import snapshots

    outputs = {step: workspace / CYCLE / step for step in versioning.WATCH}
    figures = versioning.record(workspace, outputs, settings.load(params))
    snapshots.add(workspace, str(figures["tag"]), workspace / CYCLE / "drift" / "snapshot.json")
    show("record", figures, json)
