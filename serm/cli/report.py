"""``serm report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serm.layout import REPORT


def report(
    out: Annotated[Path, typer.Option(help="The directory of the HTML pages.")] = REPORT,
) -> None:
    """Write the HTML report over all published cycles and print its path."""
    from serm import report as pages

    print(pages.build(Path.cwd(), out))
