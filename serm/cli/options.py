"""The options that several verbs share; those of what a step reads or writes come from the table of steps."""

from __future__ import annotations

import json as jsonlib
import shlex
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


def command(verb: str, **options: object) -> str:
    """Return a command as a shell takes it; an option that is None is left out, of a list each one is said."""
    several = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    said = [(name.replace("_", "-"), one) for name, values in several.items() for one in values if one is not None]
    numbers = {name: f"{one:g}" for name, one in said if isinstance(one, float)}
    return " ".join([verb, *(f"--{name} {shlex.quote(numbers.get(name, str(one)))}" for name, one in said)])


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
