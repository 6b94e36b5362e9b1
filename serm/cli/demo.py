"""``serm demo``: the whole loop on the emoji world, whose users are simulated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.step import Figures

if TYPE_CHECKING:
    from serm.worlds.emoji_stream import EmojiStream

DemoWorkspace = Annotated[Path, typer.Option(help="Where the demo's git and DVC workspace is, or will be.")]
Cycles = Annotated[int, typer.Option(min=1, max=3, help="How many evolution cycles to run.")]


def demo(workspace: DemoWorkspace = Path("runs/demo"), cycles: Cycles = 3) -> None:
    """Run evolution cycles on the emoji world with simulated users; run it again to resume what was interrupted."""
    from serm import report
    from serm.worlds.emoji_stream import EmojiStream

    began = time.monotonic()
    run(EmojiStream(workspace), cycles)
    page = report.build(workspace, workspace / "report")
    typer.echo(f"{cycles} cycles, {(time.monotonic() - began) / 60:.1f} minutes. The report: {page.resolve()}")


def run(stream: EmojiStream, cycles: int) -> None:
    """Run the first ``cycles`` cycles of a world; what is done already is not done again."""
    from serm.atomic import write_json
    from serm.cli.evolve import run_cycle, show_costs
    from serm.versioning import advance
    from serm.worlds.audit import audit

    if not stream.is_founded:
        typer.echo(f"Founding the emoji world in {stream.path}: seed judgments, the first champion, simulated users")
        show_costs({"found": stream.found()})
    for number in range(1, cycles + 1):
        if stream.is_past(number):
            typer.echo(f"cycle {number}: done before")
            continue
        simulated = stream.open_window(number)
        settings = stream.settings()
        typer.echo(f"\n{settings.cycle.name}: {settings.cycle.start.date()} to {settings.cycle.end.date()}")
        costs: dict[str, Figures] = {"simulate": simulated} | run_cycle(stream.path)
        history = stream.path / "history" / settings.cycle.name
        if "publish" in costs:
            write_json(history / "audit.json", audit(stream.path, stream.world))
        else:
            typer.echo("Nothing drifted: the window is recorded, and there is nothing to learn from it.")
        write_json(history / "costs.json", costs)
        show_costs(costs)
        advance(stream.path, settings)
