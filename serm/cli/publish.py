"""``serm publish``."""

from __future__ import annotations

from serm.cli.options import HERE, Json, Params, WorkspacePath, show
from serm.workspace.layout import CYCLE, PARAMS


def publish(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag the cycle in git, with every byte pinned by DVC."""
    from serm import settings
    from serm.monitoring import snapshots
    from serm.workspace.layout import STEPS
    from serm.workspace.publish import publish

    outputs = {step: workspace / CYCLE / step for step in STEPS}
    figures = publish(workspace, outputs, settings.load(params))
    snapshots.add(workspace, str(figures["tag"]), workspace / CYCLE / "drift" / "snapshot.json")
    show("publish", figures, json)
