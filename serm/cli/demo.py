"""``serm demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    workspace: Annotated[Path, typer.Option(help="Where the demo's workspace is, or will be.")] = Path("runs/demo"),
    cycles: Annotated[int, typer.Option(min=1, max=3, help="How many evolution cycles.")] = 3,
) -> None:
    """Run evolution cycles on the emoji world, with simulated users; run it again to resume."""
    raise NotImplementedError
