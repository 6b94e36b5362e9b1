"""The end of a cycle: commit it, let Evidently have what the drift step drew of it, and tell the Model Registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.errors import UserError
from serm.layout import CYCLE
from serm.monitoring import model_registry, snapshots
from serm.settings import Settings
from serm.step import Figures
from serm.workspace import registry
from serm.workspace.clone import is_url
from serm.workspace.publish import publish as _publish
from serm.workspace.record import record as _record
from serm.workspace.store import Workspace


def publish(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Do what ``serm.workspace.publish.publish`` does, then add the cycle to the workspace's Evidently.

    Where ``publish.model_registry`` names one and the gate passed the challenger, it is registered there too.
    """
    figures = _publish(repository, outputs, settings, run)
    _show(repository, outputs, settings)
    if settings.publish.model_registry and "version" in figures:
        figures["model_version_id"] = _register(repository, settings, figures)
    return figures


def record(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Do what ``serm.workspace.record.record`` does, then add the window to the workspace's Evidently."""
    figures = _record(repository, outputs, settings, run)
    _show(repository, outputs, settings)
    return figures


def tell(repository: Path | str, workspace: Workspace, settings: Settings) -> None:
    """Tell the Model Registry of a cycle that is published, where one is named and the gate passed the challenger.

    A registry that was down when the cycle was published is told so before the state moves on; once is enough.

    Args:
        repository: the workspace as ``publish`` was given it: a directory or a git URL.
        workspace: it, or a clone with its tags.
        settings: the cycle's settings.
    """
    version, tag = registry.version(workspace, settings.cycle.name), workspace.tag(settings.cycle.name)
    if settings.publish.model_registry and version and workspace.git("tag", "--list", version):
        commit = workspace.git("rev-list", "-n", "1", tag)
        _register(repository, settings, {"tag": tag, "commit": commit, "version": version})


def _show(repository: Path | str, outputs: Mapping[str, Path], settings: Settings) -> None:
    """A git URL has no Evidently workspace: git keeps none, and ``serm evidently`` makes one from the tags."""
    if not is_url(repository):
        snapshots.add(Path(repository), settings.cycle.name, outputs["drift"] / "snapshot.json")


def _register(repository: Path | str, settings: Settings, figures: Figures) -> str:
    """Register the model of a cycle as git has it: its name and version, and the URI that KServe takes."""
    tag, (model, _, version) = str(figures["tag"]), str(figures["version"]).rpartition("@")
    where = str(repository) if is_url(repository) else _origin(Path(repository), settings.publish.remote)
    path = CYCLE / "train" / "model"
    if directory := tag.rpartition("/")[0]:
        path = directory / path
    # Of other transports KServe's initializer takes none, and has the repository from SERM_REPOSITORY.
    named = f"{tag.replace('/', '%2F')}/{path}"
    uri = f"dvc://{where}@{named}" if where.startswith(("https://", "http://")) else f"dvc://{named}"
    told = {"dvc_tag": tag, "commit": str(figures["commit"]), "cycle": settings.cycle.name, "gate": "passed"}
    return model_registry.register(settings.publish.model_registry, model, version, uri, told)


def _origin(workspace: Path, remote: str) -> str:
    """Return the URL that a workspace pushes to; none where it has none, or one that must not be told."""
    try:
        url = Workspace(workspace).git("remote", "get-url", remote)
        return url if is_url(url) else ""
    except UserError:
        return ""
