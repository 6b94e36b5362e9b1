"""``serm evidently``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evidently(
    out: Annotated[
        Path | None, typer.Option(help="The Evidently workspace; else WORKSPACE/evidently, to which cycles append.")
    ] = None,
) -> None:
    """Append the published cycles' drift snapshots that an Evidently workspace lacks."""
    from serm.monitoring import snapshots

    root = Path.cwd()
    for tag in snapshots.append(root, out or snapshots.directory_of(root)):
        typer.echo(tag)
