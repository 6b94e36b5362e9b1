"""``serm advance``."""

from __future__ import annotations

from serm.cli.options import HERE, PARAMS, Json, Params, WorkspacePath, show


def advance(workspace: WorkspacePath = HERE, params: Params = PARAMS, json: Json = False) -> None:
    """Make a passed challenger the champion, and this window the reference of the next."""
    from serm import settings, versioning

    show("advance", versioning.advance(workspace, settings.load(params)), json)
