"""The end of a cycle: commit it, and let Evidently have what the drift step drew of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.monitoring import snapshots
from serm.settings import Settings
from serm.step import Figures
from serm.workspace.publish import publish as _publish
from serm.workspace.record import record as _record


def publish(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Do what ``serm.workspace.publish.publish`` does, then add the cycle to the Evidently workspace."""
    figures = _publish(repository, outputs, settings)
    snapshots.add(repository, settings.cycle.name, outputs["drift"] / "snapshot.json")
    return figures


def record(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Do what ``serm.workspace.record.record`` does, then add the window to the Evidently workspace."""
    figures = _record(repository, outputs, settings)
    snapshots.add(repository, settings.cycle.name, outputs["drift"] / "snapshot.json")
    return figures
