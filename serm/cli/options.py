"""The options that several verbs share; the paths' defaults are the workspace's layout."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from serm.step import Figures

Params = Annotated[Path, typer.Option(help="The settings file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]
Out = Annotated[Path, typer.Option(help="The directory to write; replaced whole, or not at all.")]
Log = Annotated[
    Path, typer.Option(help="The query log: Parquet, or UBI as JSON lines or OpenSearch bulk; a file or a directory.")
]
Documents = Annotated[Path, typer.Option(help="The catalogue (Parquet).")]
Knowledge = Annotated[Path, typer.Option(help="The judges' outside knowledge (Parquet).")]
Tests = Annotated[Path, typer.Option(help="The directory of the test sets frozen/ and rolling/.")]
Champion = Annotated[Path, typer.Option(help="The model that serves now.")]
Judgments = Annotated[Path, typer.Option(help="All judgments so far (Parquet).")]
Profiles = Annotated[Path, typer.Option(help="What earlier cycles' validation counted (Parquet).")]
Reference = Annotated[Path, typer.Option(help="Impressions to compare the window with (Parquet).")]
Windows = Annotated[Path, typer.Option(help="Samples of the earlier windows, as `serm drift` keeps them.")]
Window = Annotated[Path, typer.Option(help="What `serm ingest` wrote.")]
Validated = Annotated[Path, typer.Option(help="What `serm validate` wrote.")]
Mined = Annotated[Path, typer.Option(help="What `serm mine` wrote.")]
Annotated_ = Annotated[Path, typer.Option("--annotated", help="What `serm annotate` wrote.")]
Trained = Annotated[Path, typer.Option(help="What `serm train` wrote.")]
Evaluated = Annotated[Path, typer.Option(help="What `serm evaluate` wrote.")]


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
    Console(file=sys.stdout).print(table)
