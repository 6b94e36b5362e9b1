"""``serm publish``."""

from __future__ import annotations

from serm.cli.options import CYCLE, HERE, PARAMS, Json, Params, WorkspacePath, show


def publish(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag the cycle in git, with every byte pinned by DVC."""
    from serm import settings, versioning
    from serm.monitoring import snapshots

    outputs = {step: workspace / CYCLE / step for step in versioning.STEPS}
    figures = versioning.publish(workspace, outputs, settings.load(params))
    snapshots.add(workspace, str(figures["tag"]), workspace / CYCLE / "drift" / "snapshot.json")
    show("publish", figures, json)
