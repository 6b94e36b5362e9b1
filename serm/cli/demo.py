"""``serm demo``: the whole loop on the emoji world, whose users are simulated."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.cli.evolve import show_costs
from serm.cli.options import command
from serm.layout import HISTORY, REPORT

if TYPE_CHECKING:
    from serm.worlds.emoji_stream import EmojiStream

DemoWorkspace = Annotated[Path, typer.Option(help="Where the demo's git and DVC workspace is, or will be.")]
Cycles = Annotated[int, typer.Option(min=1, max=3, help="How many evolution cycles to run.")]

Small = Annotated[
    bool, typer.Option("--small", help="A tenth of the world: minutes a cycle, and too little to learn from.")
]

Raw = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="Write only what a company of that world would have at the end of 2018 (a query log in UBI, catalogue, "
        "judgments), for `serm init`, and stop.",
    ),
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
    workspace: DemoWorkspace = Path("runs/demo"),
    cycles: Cycles = 2,
    small: Small = False,
    rollout: Rollout = False,
    raw: Raw = None,
) -> None:
    """Run evolution cycles on the emoji world with simulated users; run it again to resume what was interrupted."""
    if raw is not None:
        _write_raw(raw, small)
        return
    from serm import report
    from serm.workspace.lock import writing
    from serm.worlds.emoji_stream import EmojiStream
    from serm.worlds.small import small_stream

    began = time.monotonic()
    stream = small_stream(workspace) if small else EmojiStream(workspace)
    with writing(stream.path, "serm demo"):
        if not stream.is_founded:
            print(f"Founding the emoji world in {stream.path}: seed judgments, the first champion, simulated users")
            show_costs({"found": stream.found()})
        for number in range(1, cycles + 1):
            if stream.is_past(number):
                print(f"cycle {number}: done before")
            else:
                run_window(stream, number, rollout)
    page = report.build(workspace, workspace / REPORT)
    typer.echo(f"{cycles} cycles, {(time.monotonic() - began) / 60:.1f} minutes. The report: {page.resolve()}")


def run_window(stream: EmojiStream, number: int, rollout: bool) -> None:
    """Evolve through a window of the world as a user does who looks before a promotion: `--hold`, then on.

    Between the two the world holds the cycle against its hidden truth and, with ``rollout``, lets its users decide.
    What is done already is not done again.
    """
    from serm.atomic import write_json
    from serm.evolve import evolve
    from serm.workspace.progress import Progress
    from serm.workspace.runner import is_done
    from serm.workspace.store import Workspace

    simulated = stream.open_window(number)
    cycle = stream.settings().cycle
    print(f"\n{cycle.name}: {cycle.start.date()} to {cycle.end.date()}", flush=True)
    if not is_done(Workspace(stream.path), cycle.name):
        evolve(stream.path, lambda *_: None, hold=True)
    history = stream.path / HISTORY / cycle.name
    costs = {"simulate": simulated} | json.loads((history / "costs.json").read_text(encoding="utf-8"))
    is_whole = not Progress.read(stream.path).advancing  # the state is the one that the cycle read
    if "publish" not in costs:
        print("Nothing drifted: the window is recorded, and there is nothing to learn from it.")
    elif is_whole:
        write_json(history / "audit.json", stream.audit())
    write_json(history / "costs.json", costs)
    show_costs(costs)
    if rollout and is_whole:
        stream.roll_out(number)
    evolve(stream.path, lambda *_: None, lambda line: print(line, flush=True))


def _write_raw(folder: Path, small: bool) -> None:
    import tempfile

    from serm import relevance
    from serm.errors import UserError
    from serm.settings import RelevanceSettings
    from serm.worlds import raw
    from serm.worlds.emoji import EmojiWorld
    from serm.worlds.small import small_world
    from serm.worlds.traffic import FirstStage

    if folder.exists():
        raise UserError(f"--raw {folder}: something is there already; give a directory that is new.")
    settings = RelevanceSettings()
    with tempfile.TemporaryDirectory(prefix="serm-") as scratch:
        world = small_world(Path(scratch)) if small else EmojiWorld()
        figures = raw.write_company(folder, world, FirstStage(relevance.load_encoder(settings.base, settings)))
    for name, value in figures.items():
        typer.echo(f"{name}: {value:,}")
    given = {"log": raw.LOG, "documents": raw.PRODUCTS, "judgments": raw.JUDGMENTS, "knowledge": raw.KNOWLEDGE}
    paths = {option: folder / name for option, name in given.items()}
    typer.echo("\nNext (users and judgments are simulated):")
    typer.echo("  " + command("serm init WORKSPACE", **paths, every=730))
