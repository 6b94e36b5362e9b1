"""An Evidently workspace to which each published cycle appends its snapshot."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["DO_NOT_TRACK"] = "1"  # Evidently phones home unless told not to before it is imported

from evidently.core.report import Snapshot
from evidently.sdk.models import PanelMetric
from evidently.sdk.panels import line_plot_panel
from evidently.ui.workspace import Workspace as EvidentlyWorkspace

from serm.report import history
from serm.versioning import Workspace

if TYPE_CHECKING:
    from evidently.ui.workspace import Project

#: Evidently names a metric by its class; a panel draws each one over the cycles, a line a column.
PANELS = (("Distance of each column from the window before", "ValueDrift"), ("Columns marked", "DriftedColumnsCount"))


def append(workspace: Path, directory: Path) -> list[str]:
    """Add the snapshots that the Evidently workspace ``directory`` lacks, and return their cycles' tags.

    The project has the workspace's name, each run its cycle's tag and the end of its window as its time. Open it with
    ``evidently ui --workspace DIRECTORY``.

    Raises:
        UserError: the workspace has no published cycle, or DVC cannot bring back a snapshot.
    """
    repository = Workspace(workspace)
    evidently = EvidentlyWorkspace.create(str(directory))
    project = _project(evidently, repository.path.name)
    there = {evidently.get_run(project.id, run).name for run in evidently.list_runs(project.id)}
    tags = [tag for tag in history.tags(workspace) if tag not in there and repository.has_tag(tag)]
    for tag in tags:
        with tempfile.TemporaryDirectory() as folder:
            snapshot = Path(folder) / "snapshot.json"
            source = [str(repository.path), "cycle/drift/snapshot.json"]
            repository.dvc("get", "--quiet", "--rev", tag, "--out", str(snapshot), *source)
            evidently.add_run(project.id, Snapshot.loads(snapshot.read_text(encoding="utf-8")), name=tag)
    return tags


def _project(evidently: EvidentlyWorkspace, name: str) -> Project:
    found = evidently.search_project(name)
    if found:
        return found[0]
    project = evidently.create_project(name, "The windows of SERM's cycles, each beside the one before.")
    for title, metric in PANELS:
        project.dashboard.add_panel(line_plot_panel(title, [PanelMetric(metric=metric)]), tab="Drift")
    return project
