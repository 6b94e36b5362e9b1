"""``serm begin``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Json, Params, show
from serm.layout import PARAMS


def begin(params: Params = PARAMS, json: Json = False) -> None:
    """Take the state that the cycle's steps read (cycle/state); evolve does it, and dvc repro for a new cycle."""
    from serm import settings
    from serm.workspace.begin import begin

    show("begin", begin(Path.cwd(), settings.load(params)), json)
