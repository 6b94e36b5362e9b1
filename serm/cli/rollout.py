"""``serm rollout``: from a passed gate to all users, or back."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serm.cli.options import Json, Params, show
from serm.cli.standing import reads
from serm.errors import UserError
from serm.escaping import visible
from serm.layout import CYCLE, PARAMS, ROLLOUTS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from serm.rollout.record import Record
    from serm.rollout.traffic import Traffic
    from serm.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Ramp a challenger up by what its users do, and take it back.")

Records = Annotated[Path, typer.Option(help="The directory of the rollouts' records.")]
Experiment = Annotated[
    str | None, typer.Option(help="The rollout's name, by which users are placed. Default: the cycle's.")
]
Log = Annotated[
    Path,
    typer.Option(help="The joined log, a dataset of impressions; its variant is challenger, control or champion."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Decide and show what would be sent; change nothing.")]
Gate = Annotated[Path, typer.Option(help="The deploy step's output, which says whether the gate passed.")]
Why = Annotated[str, typer.Option(help="The reason; it stays in the record.")]
MapFile = Annotated[Path, typer.Argument(help="The file that HAProxy's configuration names.")]
_CODES = {"promote": 0, "advance": 0, "roll_back": 1, "error": 1, "hold": 3, "inconclusive": 3}


@app.command()
@reads
def plan(log: Log, params: Params = PARAMS, json: Json = False) -> None:
    """Say how long a rollout would take and what it could find, from the traffic that the log shows."""
    from serm.rollout.plan import plan, told

    settings, _ = _settings(params, None)
    show("rollout plan", told(plan(log, settings.rollout, settings.engine)), json)


@app.command()
@reads
def start(
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    deployed: Gate = CYCLE / "deploy",
    json: Json = False,
) -> None:
    """Give a challenger that passed the gate the first step's share of the users."""
    from serm.rollout import controller

    settings, name = _settings(params, experiment)
    _passed(deployed / "deploy.json")
    with _traffic(settings) as traffic:
        _show(controller.start(records, name, settings.rollout, traffic), json)


@app.command()
@reads
def step(
    log: Log,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Look at what users did, decide, and set the traffic. Run it from a CronJob; it may run twice, or be killed."""
    from serm.rollout import controller

    settings, name = _settings(params, experiment)
    with _traffic(settings) as traffic:
        done = controller.step(records, name, log, settings.engine, traffic, dry_run=dry_run)
    if not dry_run:
        _show(done.record, json)
        return
    decided = done.decision
    found = {"action": decided.action, "percent": decided.percent, "reasons": decided.reasons} if decided else {}
    print(jsonlib.dumps({**found, "would_send": done.patch}, indent=None if json else 2, ensure_ascii=False))


@app.command()
@reads
def status(
    params: Params = PARAMS, experiment: Experiment = None, records: Records = ROLLOUTS, json: Json = False
) -> None:
    """Show where a rollout stands, and why."""
    from serm.rollout.record import load, path_of

    _, name = _settings(params, experiment)
    _show(load(path_of(records, name)), json)


@app.command()
@reads
def verdict(
    log: Log, params: Params = PARAMS, experiment: Experiment = None, records: Records = ROLLOUTS, json: Json = False
) -> None:
    """Say what a step would decide, and set nothing: exit code 0 go on or promote, 1 roll back or error, 3 wait.

    It is what a job of Argo Rollouts' AnalysisTemplate or a webhook of Flagger asks.
    """
    from serm.rollout import controller

    settings, name = _settings(params, experiment)
    with _traffic(settings) as traffic:
        decided = controller.step(records, name, log, settings.engine, traffic, dry_run=True).decision
    if decided is None:
        raise UserError(f"{records}: the rollout {name!r} is not at rest at a step; see `serm rollout status`.")
    if json:
        print(jsonlib.dumps({"action": decided.action, "percent": decided.percent, "reasons": decided.reasons}))
    else:
        print(visible(f"{decided.action}: {'; '.join(decided.reasons)}"))
    raise typer.Exit(_CODES[decided.action])


@app.command()
@reads
def abort(
    why: Why,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    json: Json = False,
) -> None:
    """Take the challenger back to 0 now, and end its rollout."""
    from serm.rollout import controller

    settings, name = _settings(params, experiment)
    with _traffic(settings) as traffic:
        _show(controller.abort(records, name, why, traffic), json)


@app.command("map")
@reads
def map_(file: MapFile, params: Params = PARAMS, experiment: Experiment = None) -> None:
    """Write the map that HAProxy starts with: a challenger that nobody sees. Live changes are the other verbs'."""
    from serm.atomic import write_text
    from serm.rollout.traffic.haproxy import lines

    if file.exists():
        raise UserError(f"{file}: is there already, and may be in force; take it away first if it is not.")
    write_text(file, lines(_settings(params, experiment)[1], 0))


def _settings(params: Path, experiment: str | None) -> tuple[Settings, str]:
    from serm import settings

    loaded = settings.load(params)
    return loaded, experiment or loaded.cycle.name


def _traffic(settings: Settings) -> AbstractContextManager[Traffic]:
    from serm.rollout.traffic import connect

    rollout, serving = settings.rollout, settings.serving
    return connect(rollout.traffic, rollout.traffic_options, serving.namespace, serving.name)


def _passed(path: Path) -> None:
    try:
        gate = jsonlib.loads(path.read_text(encoding="utf-8"))["gate"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the deploy step before.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no gate result in it; run the deploy step again.") from error
    if gate != "passed":
        raise UserError(f"{path}: the gate's result is {gate!r}: users do not see this challenger.")


def _show(record: Record, json: bool) -> None:
    """Print where a rollout stands: all of the record as JSON, or its last decision as a table."""
    if json:
        print(record.model_dump_json())
        return
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"rollout {record.experiment}", show_header=False, title_justify="left")
    table.add_row("outcome", record.outcome.replace("_", " "))
    since = f" since {record.stages[-1].since:%Y-%m-%d %H:%M} UTC" if record.stages else ""
    table.add_row("challenger", f"{record.percent} %{since}")
    if record.decisions:
        last = record.decisions[-1]
        table.add_row("last look", f"{last.at:%Y-%m-%d %H:%M} UTC: {last.action.replace('_', ' ')}")
        for reason in last.reasons:
            table.add_row("", visible(reason))
        for name, found in last.findings.items():
            if isinstance(found, dict):
                table.add_row(name.replace("_", " "), _finding(found))
    Console(file=sys.stdout).print(table)


def _finding(found: dict[str, Any]) -> str:
    told = f"{found['challenger']:.4f} against {found['control']:.4f}"
    if found["low"] is None:
        return told
    return f"{told}, difference {found['low']:+.4f} to {found['high']:+.4f}"
