"""``serm evidently``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import HERE, WorkspacePath


def evidently(
    workspace: WorkspacePath = HERE,
    out: Annotated[
        Path | None, typer.Option(help="The Evidently workspace; else WORKSPACE/evidently, to which cycles append.")
    ] = None,
) -> None:
    """Append the published cycles' drift snapshots that an Evidently workspace lacks."""
    from serm.monitoring import snapshots

    for tag in snapshots.append(workspace, out or snapshots.directory_of(workspace)):
        typer.echo(tag)
