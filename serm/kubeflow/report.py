"""The report of what a run published, from the workspace's own repository."""

from __future__ import annotations

from pathlib import Path

from serm import report
from serm.errors import UserError
from serm.layout import DVC, HISTORY, REPORT
from serm.workspace.lock import writing
from serm.workspace.store import Workspace


def fetch_report(root: Path) -> Path | None:
    """Bring what was published to the branch's upstream, and build the report; return its page.

    None: ``root`` is no workspace, its branch follows no other, or there is no cycle yet.

    Raises:
        UserError: the branch cannot go on to its upstream, since both have commits of their own.
    """
    if not (root / DVC).is_dir():
        return None
    workspace = Workspace(root)
    with writing(workspace.path, "serm submit"):
        try:
            workspace.git("rev-parse", "--verify", "--quiet", "@{upstream}")
        except UserError:
            return None
        workspace.git("pull", "--quiet", "--ff-only", "--tags")
        if not any((workspace.path / HISTORY).glob("cycle-*")):
            return None
        return report.build(workspace.path, workspace.path / REPORT)
