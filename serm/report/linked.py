"""The big pages beside the report: each cycle's Evidently report and Great Expectations Data Docs."""

from __future__ import annotations

import logging
from pathlib import Path

from serm.atomic import replace_directory
from serm.errors import UserError
from serm.workspace.store import Workspace

_LOG = logging.getLogger(__name__)

#: Step -> what it wrote under ``cycle/<step>``, and the page to open in it.
PAGES = {"drift": ("report.html", ""), "validate": ("data_docs", "/index.html")}


def fetch(workspace: Path, tag: str, out: Path) -> dict[str, str]:
    """Copy the pages of ``tag`` out of DVC to ``out/<tag>/<step>``, unless they are there.

    Returns:
        Step -> the page's address, relative to ``out``; a page that DVC does not have is left out, and so is one
        without a content security policy: an earlier SERM wrote it, with searchers' scripts in it if there were any.
    """
    found = {}
    for step, (name, opens) in PAGES.items():
        directory, page = out / tag / step, f"{tag}/{step}/{name}{opens}"
        if _sealed(out / page) or (_pinned(workspace, tag) and _get(workspace, tag, step, name, directory, opens)):
            found[step] = page
    return found


def _pinned(workspace: Path, tag: str) -> bool:
    if not (workspace / ".dvc").is_dir():
        return False
    repository = Workspace(workspace)
    return repository.has_tag(tag) and repository.shows(tag, "dvc.lock")


def _get(workspace: Path, tag: str, step: str, name: str, directory: Path, opens: str) -> bool:
    try:
        with replace_directory(directory.resolve()) as beside:  # DVC runs in the workspace, not here
            Workspace(workspace).get(tag, f"cycle/{step}/{name}", beside / name)
            if not _sealed(beside / f"{name}{opens}"):
                raise UserError("an earlier SERM wrote it, which did not escape what searchers typed.")
    except UserError as error:
        _LOG.warning("serm: %s will have no link to its %s page: %s", tag, step, error)
        return False
    return True


def _sealed(page: Path) -> bool:
    """Say whether ``page`` is there and has its policy, which stands before all else that a page shows."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return b'<meta http-equiv="Content-Security-Policy"' in file.read(1000)
