"""``serm evolve``: one cycle through the compiled KFP pipeline, in this machine's processes."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Json
from serm.step import Figures

Force = Annotated[bool, typer.Option("--force", help="Run the whole cycle though nothing drifted.")]


def evolve(force: Force = False, json: Json = False) -> None:
    """Run one evolution cycle: ingest, validate, drift, mine, annotate, train, evaluate, publish, deploy.

    When nothing drifted, record follows drift and nothing else: the window's figures stay, and no model is trained.
    """
    from serm.workspace.runner import run_cycle

    costs = run_cycle(Path.cwd(), force)
    if json:
        print(jsonlib.dumps(costs, sort_keys=True))
    else:
        show_costs(costs)


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
    Console().print(table)
