"""The report of what a run published, from the workspace's own repository."""

from __future__ import annotations

import html
from pathlib import Path
from tempfile import TemporaryDirectory

from serm import report
from serm.atomic import write_text
from serm.errors import UserError
from serm.escaping import policy, visible
from serm.kubeflow.repository import opened
from serm.layout import DVC, HISTORY, REPORT
from serm.settings import parse
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


def leave_report(
    repository: str,
    volume: Path,
    out: Path,
    state: str,
    error: str,
    branch: str = "",
    directory: str = "",
    settings: str = "",
) -> None:
    """Write to ``out`` the page of a run that has ended: the workspace's report, or why there is none.

    It is called however the run ended, so nothing that is wrong with the repository stops it.

    Args:
        repository: as in ``repository.opened``.
        volume: as in ``repository.opened``.
        out: the file.
        state: how the run ended, as KFP calls it: SUCCEEDED, FAILED, ...
        error: what KFP says of a failure.
        branch: as in ``repository.opened``.
        directory: as in ``repository.opened``.
        settings: the text of a params.yaml, whose section ``publish`` says branch and directory instead.
    """
    # Of a loop KFP may say that it still runs: https://github.com/kubeflow/pipelines/issues/13321
    known = state.upper() in ("SUCCEEDED", "FAILED", "CANCELED", "CANCELLED", "SKIPPED")
    said = f"This run has ended{f': {state.lower()}' if known else '; KFP does not say how'}."
    said += f" {error}" if error else ""
    try:
        with TemporaryDirectory(prefix="serm-") as scratch:
            if settings:
                publish = parse(settings).publish
                branch, directory = publish.branch or "", publish.directory or ""
            workspace = opened(repository, volume, (), branch, directory)
            page = report.build(workspace.path, Path(scratch)).read_text(encoding="utf-8")
    except Exception as fault:  # whatever it was: a run whose work is done does not fail for the want of its page
        page, said = _EMPTY.format(policy=html.escape(policy())), f"{said} There is no report: {_told(fault)}"
    told = f"<p role=status>{html.escape(visible(said))}</p>"
    write_text(out, page.replace("<body>", f"<body>{told}", 1))


def _told(fault: Exception) -> str:
    return str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"


_EMPTY = """<!doctype html><html lang=en><head><meta charset=utf-8><title>SERM</title>
<meta http-equiv=Content-Security-Policy content="{policy}"></head><body></body></html>
"""
