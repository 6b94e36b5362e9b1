"""``serm evolve``: one cycle through the compiled KFP pipeline, in this machine's processes."""

from __future__ import annotations

import json as jsonlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Json
from serm.step import Figures

Force = Annotated[bool, typer.Option("--force", help="Run the whole cycle though nothing drifted.")]
Hold = Annotated[bool, typer.Option("--hold", help="Stop before `serm advance`: a person looks at the cycle first.")]
Through = Annotated[
    datetime | None,
    typer.Option(help="Go on with later windows that end by this time (UTC) and that the log covers: catch up."),
]


def evolve(force: Force = False, hold: Hold = False, through: Through = None, json: Json = False) -> None:
    """Run the next evolution cycle: ingest, validate, drift, mine, annotate, train, evaluate, publish, deploy; advance.

    Once the workspace has advanced past a cycle, params.yaml is set to the next window (cycle.every days) as soon as
    the log covers it. When nothing drifted, record follows drift and nothing else: the window's figures stay, and no
    model is trained.
    """
    from serm.evolve import evolve as run

    def show(tag: str, costs: dict[str, Figures]) -> None:
        if json:
            print(jsonlib.dumps({"cycle": tag, **costs}, sort_keys=True))
        else:
            print(tag)
            show_costs(costs)

    def tell(line: str) -> None:
        print(line, file=sys.stderr if json else sys.stdout, flush=True)

    until = through.replace(tzinfo=UTC) if through else None
    run(Path.cwd(), show, tell, force=force, hold=hold, through=until)


def show_costs(costs: dict[str, Figures]) -> None:
    """Print what each step of a cycle took and did."""
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "seconds", "peak MB", "figures")
    for step, figures in costs.items():
        told = ", ".join(
            f"{name} {value}" for name, value in figures.items() if name not in ("seconds", "peak_memory_mb")
        )
        table.add_row(step, str(figures["seconds"]), str(figures["peak_memory_mb"]), told)
    Console(markup=False).print(table)
