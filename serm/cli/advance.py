"""``serm advance``."""

from __future__ import annotations

from serm.cli.options import HERE, Json, Params, WorkspacePath, show
from serm.workspace.layout import PARAMS


def advance(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Make a passed challenger the champion, and this window the reference of the next."""
    from serm import settings
    from serm.workspace.advance import advance

    show("advance", advance(workspace, settings.load(params)), json)
