"""The options that several verbs share; those of what a step reads or writes come from the table of steps."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from serm import steps
from serm.step import Figures

Params = Annotated[Path, typer.Option(help="The settings file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]
Out = Annotated[Path, typer.Option(help="The directory to write; replaced whole, or not at all.")]
Champion = Annotated[Path, typer.Option(help=steps.CHAMPION.help)]
Judgments = Annotated[Path, typer.Option(help=steps.JUDGMENTS.help)]
Tests = Annotated[Path, typer.Option(help=steps.TESTS.help)]
Validated = Annotated[Path, typer.Option(help=steps.VALIDATED.help)]
Mined = Annotated[Path, typer.Option(help=steps.MINED.help)]
Annotated_ = Annotated[Path, typer.Option("--annotated", help=steps.ANNOTATED.help)]


def show(title: str, figures: Figures, json: bool) -> None:
    """Print a step's figures, as a table for people or as JSON for machines."""
    if json:
        print(jsonlib.dumps(figures, sort_keys=True))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value))
    Console(file=sys.stdout, markup=False).print(table)
