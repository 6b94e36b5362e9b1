"""An Evidently workspace to which each published cycle appends its snapshot."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

os.environ["DO_NOT_TRACK"] = "1"  # Evidently phones home unless told not to before it is imported

from evidently.core.report import Snapshot
from evidently.sdk.models import PanelMetric
from evidently.sdk.panels import line_plot_panel
from evidently.ui.workspace import Workspace as EvidentlyWorkspace

from serm.atomic import write_text
from serm.report import history
from serm.versioning import Workspace

if TYPE_CHECKING:
    from evidently.ui.workspace import Project

#: Evidently names a metric by its class; a panel draws each one over the cycles, a line a column.
PANELS = (("Distance of each column from the window before", "ValueDrift"), ("Columns marked", "DriftedColumnsCount"))


def directory_of(workspace: Path) -> Path:
    """Return where a workspace's Evidently workspace is unless it is said otherwise; git does not see it."""
    return workspace / "evidently"


def add(workspace: Path, tag: str, snapshot: Path) -> None:
    """Add the snapshot of the cycle ``tag`` to the workspace's Evidently workspace, in the place of an earlier one.

    Args:
        workspace: SERM's workspace.
        tag: the cycle.
        snapshot: the drift step's ``snapshot.json``.
    """
    _write(*_open(workspace, directory_of(workspace)), tag, snapshot)


def append(workspace: Path, directory: Path) -> list[str]:
    """Add the snapshots that the Evidently workspace ``directory`` lacks, and return their cycles' tags.

    The project has the workspace's name, each run its cycle's tag and the end of its window as its time. Open it with
    ``evidently ui --workspace DIRECTORY``.

    Raises:
        UserError: the workspace has no published cycle, or DVC cannot bring back a snapshot.
    """
    repository = Workspace(workspace)
    evidently, project = _open(workspace, directory)
    there = set(evidently.list_runs(project.id))
    tags = [tag for tag in history.tags(workspace) if _run(project, tag) not in there and repository.has_tag(tag)]
    for tag in tags:
        with tempfile.TemporaryDirectory() as folder:
            snapshot = Path(folder) / "snapshot.json"
            source = [str(repository.path), "cycle/drift/snapshot.json"]
            repository.dvc("get", "--quiet", "--rev", tag, "--out", str(snapshot), *source)
            _write(evidently, project, tag, snapshot)
    return tags


def _open(workspace: Path, directory: Path) -> tuple[EvidentlyWorkspace, Project]:
    evidently = EvidentlyWorkspace.create(str(directory))
    write_text(directory / ".gitignore", "*\n")  # `serm evidently` makes it again from git's tags
    return evidently, _project(evidently, workspace.resolve().name)


def _run(project: Project, tag: str) -> UUID:
    """Return the id of a cycle's run: the same each time, so that a cycle that is resumed has one."""
    return uuid5(project.id, tag)


def _write(evidently: EvidentlyWorkspace, project: Project, tag: str, snapshot: Path) -> None:
    run = Snapshot.loads(snapshot.read_text(encoding="utf-8"))
    run.set_name(tag)
    evidently.state.write_snapshot(project.id, _run(project, tag), run.to_snapshot_model())


def _project(evidently: EvidentlyWorkspace, name: str) -> Project:
    found = evidently.search_project(name)
    if found:
        return found[0]
    project = evidently.create_project(name, "The windows of SERM's cycles, each beside the one before.")
    for title, metric in PANELS:
        project.dashboard.add_panel(line_plot_panel(title, [PanelMetric(metric=metric)]), tab="Drift")
    return project
