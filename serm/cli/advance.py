"""``serm advance``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Json, Params, show
from serm.layout import PARAMS


def advance(params: Params = PARAMS, json: Json = False) -> None:
    """Make a passed challenger the champion, and this window the reference of the next."""
    from serm import settings
    from serm.workspace.advance import advance

    show("advance", advance(Path.cwd(), settings.load(params)), json)
