"""``serm publish``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Json, Params, show
from serm.workspace.layout import CYCLE, PARAMS, STEPS


def publish(params: Params = PARAMS, json: Json = False) -> None:
    """Commit and tag the cycle in git, with every byte pinned by DVC."""
    from serm import settings
    from serm.monitoring import snapshots
    from serm.workspace.publish import publish

    root = Path.cwd()
    given = settings.load(params)
    figures = publish(root, {step: root / CYCLE / step for step in STEPS}, given)
    snapshots.add(root, given.cycle.name, root / CYCLE / "drift" / "snapshot.json")
    show("publish", figures, json)
