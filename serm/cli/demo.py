"""``serm demo``: the whole loop on the emoji world, whose users are simulated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.evolve import show_costs
from serm.layout import REPORT

DemoWorkspace = Annotated[Path, typer.Option(help="Where the demo's git and DVC workspace is, or will be.")]
Cycles = Annotated[int, typer.Option(min=1, max=3, help="How many evolution cycles to run.")]

Small = Annotated[
    bool, typer.Option("--small", help="A tenth of the world: minutes a cycle, and too little to learn from.")
]


Rollout = Annotated[
    bool,
    typer.Option(
        "--rollout",
        help="Let simulated users decide on each challenger that passes the gate: real model servers behind a real "
        "HAProxy, about a minute a cycle.",
    ),
]


def demo(
    workspace: DemoWorkspace = Path("runs/demo"), cycles: Cycles = 2, small: Small = False, rollout: Rollout = False
) -> None:
    """Run evolution cycles on the emoji world with simulated users; run it again to resume what was interrupted."""
    from serm import report
    from serm.workspace.runner import run_loop
    from serm.worlds.emoji_stream import EmojiStream
    from serm.worlds.small import small_stream

    began = time.monotonic()
    run_loop(small_stream(workspace) if small else EmojiStream(workspace), cycles, show_costs, rollout=rollout)
    page = report.build(workspace, workspace / REPORT)
    typer.echo(f"{cycles} cycles, {(time.monotonic() - began) / 60:.1f} minutes. The report: {page.resolve()}")
