"""``serm evidently``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import HERE, WorkspacePath


def evidently(
    workspace: WorkspacePath = HERE,
    out: Annotated[Path, typer.Option(help="The Evidently workspace; made where there is none.")] = Path("evidently"),
) -> None:
    """Append the published cycles' drift snapshots to an Evidently workspace; run it again after each cycle."""
    from serm.monitoring import snapshots

    for tag in snapshots.append(workspace, out):
        typer.echo(tag)
