"""The end of a cycle: commit it, and let Evidently have what the drift step drew of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.monitoring import snapshots
from serm.settings import Settings
from serm.step import Figures
from serm.workspace.clone import is_url
from serm.workspace.publish import publish as _publish
from serm.workspace.record import record as _record


def publish(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Do what ``serm.workspace.publish.publish`` does, then add the cycle to the workspace's Evidently."""
    figures = _publish(repository, outputs, settings, run)
    _show(repository, outputs, settings)
    return figures


def record(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Do what ``serm.workspace.record.record`` does, then add the window to the workspace's Evidently."""
    figures = _record(repository, outputs, settings, run)
    _show(repository, outputs, settings)
    return figures


def _show(repository: Path | str, outputs: Mapping[str, Path], settings: Settings) -> None:
    """A git URL has no Evidently workspace: git keeps none, and ``serm evidently`` makes one from the tags."""
    if not is_url(repository):
        snapshots.add(Path(repository), settings.cycle.name, outputs["drift"] / "snapshot.json")
