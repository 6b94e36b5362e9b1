"""An Evidently workspace to which each published cycle adds its snapshot.

It is a directory of JSON files. They are written here and not by Evidently, whose import takes longer than all of
publishing and whose writes can be cut short. Ids come from names, so a cycle that is resumed has one run.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid5

from serm.atomic import replace_file, write_json, write_text
from serm.escaping import unmarked
from serm.workspace import history
from serm.workspace.store import Workspace

#: Evidently names a metric by its class; a panel draws each one over the cycles, a line a column.
PANELS = (("Distance of each column from the window before", "ValueDrift"), ("Columns marked", "DriftedColumnsCount"))
_IDS = UUID("5e6d0000-0000-4000-8000-000000000000")


def directory_of(workspace: Path) -> Path:
    """Return where the cycles of ``workspace`` add their snapshots; git does not see it."""
    return workspace / "evidently"


def add(workspace: Path, tag: str, snapshot: Path) -> None:
    """Add the snapshot of the cycle ``tag`` to ``directory_of(workspace)``, in the place of an earlier one.

    Args:
        workspace: SERM's workspace.
        tag: the cycle's tag.
        snapshot: the drift step's ``snapshot.json``.
    """
    with replace_file(_run(_project(workspace, directory_of(workspace)), tag)) as beside:
        _take(snapshot, beside)


def append(workspace: Path, directory: Path) -> list[str]:
    """Add the snapshots that the Evidently workspace ``directory`` lacks, and return their cycles' tags.

    The project has the workspace's name, each run its cycle's tag and the end of its window as its time. Open it with
    ``evidently ui --workspace DIRECTORY``.

    Raises:
        UserError: the workspace has no published cycle, or DVC cannot bring back a snapshot.
    """
    repository = Workspace(workspace)
    project = _project(workspace, directory)
    tags = [tag for tag in history.tags(workspace) if not _run(project, tag).exists() and repository.has_tag(tag)]
    for tag in tags:
        with replace_file(_run(project, tag).resolve()) as beside:  # DVC runs in the workspace, not here
            beside.unlink()  # DVC leaves what is there
            repository.get(tag, "cycle/drift/snapshot.json", beside)
            _take(beside, beside)
    return tags


def _project(workspace: Path, directory: Path) -> Path:
    """Make the Evidently project of ``workspace`` in ``directory`` if it is not there, and return its directory."""
    name = workspace.resolve().name
    project = directory / str(uuid5(_IDS, name))
    if (project / "metadata.json").exists():
        return project
    write_text(directory / ".gitignore", "*\n")  # `serm evidently` makes all of it again from git's tags
    panels = [
        {"id": str(uuid5(_IDS, title)), "title": title, "size": "full", "plot_params": {"plot_type": "line"}}
        | {"values": [{"metric": f"evidently:metric_v2:{metric}"}]}
        for title, metric in PANELS
    ]
    tab = {"id": str(uuid5(_IDS, "Drift")), "title": "Drift", "panels": [panel["id"] for panel in panels]}
    write_json(project / "dashboard.json", {"tabs": [tab], "panels": panels})
    about = "The windows of SERM's cycles, each beside the one before."
    write_json(project / "metadata.json", {"id": project.name, "name": name, "description": about, "version": "2"})
    return project


def _take(snapshot: Path, to: Path) -> None:
    """Copy a snapshot; an earlier SERM let searchers' tags in, and Evidently draws and serves what it holds raw."""
    to.write_text(unmarked(snapshot.read_text(encoding="utf-8")), encoding="utf-8")


def _run(project: Path, tag: str) -> Path:
    return project / "snapshots" / f"{uuid5(_IDS, tag)}.json"
