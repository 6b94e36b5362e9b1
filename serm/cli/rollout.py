"""``serm rollout``: from a passed gate to all users, or back."""

from __future__ import annotations

import json as jsonlib
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serm.cli.options import Json, Params, show
from serm.cli.standing import reads
from serm.errors import UserError
from serm.escaping import visible
from serm.layout import CYCLE, DVC, PARAMS, ROLLOUTS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from serm.rollout.controller import Tick
    from serm.rollout.record import Model, Record
    from serm.rollout.traffic import Traffic
    from serm.rollout.verdict import Verdict
    from serm.settings import Settings
    from serm.step import Figures

app = typer.Typer(no_args_is_help=True, help="Ramp a challenger up by what its users do, and take it back.")

Records = Annotated[Path, typer.Option(help="The directory of the rollouts' records.")]
Experiment = Annotated[
    str | None,
    typer.Option(help="The rollout's name, by which users are placed. Default: the one that runs, else the cycle's."),
]
Log = Annotated[
    Path,
    typer.Option(help="The joined log, a dataset of impressions; its variant is challenger, control or champion."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Decide and show what would be sent; change nothing.")]
Gate = Annotated[Path, typer.Option(help="The deploy step's output, which says whether the gate passed.")]
Commit = Annotated[bool, typer.Option(help="Commit the record; not in a clone that only pulls, which it would fork.")]
Why = Annotated[str, typer.Option(help="The reason; it stays in the record.")]
Every = Annotated[float, typer.Option(min=0.1, help="Seconds between two ticks.")]
Fresh = Annotated[float, typer.Option(min=0, help="Seconds for which a verdict is kept.")]
Html = Annotated[Path | None, typer.Option(help="Write the ramp as this page instead.")]
Host = Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 in a pod.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
MapFile = Annotated[Path, typer.Argument(help="The file that HAProxy's configuration names.")]
_CODES = {"promote": 0, "advance": 0, "roll_back": 1, "error": 1, "hold": 3, "inconclusive": 3}
_ENDED = {"promoted": 0, "rolled_back": 1, "error": 1, "inconclusive": 3}


@app.command()
@reads
def plan(log: Log, params: Params = PARAMS, json: Json = False) -> None:
    """Say how long a rollout would take and what it could find, from the traffic that the log shows."""
    from serm.rollout.plan import plan, told

    settings = _loaded(params)
    show("rollout plan", told(plan(log, settings.rollout, settings.engine)), json)


@app.command()
@reads
def interleaved(log: Log, params: Params = PARAMS, json: Json = False) -> None:
    """Say whose documents users click on interleaved pages, which the transformer makes with ``interleave: true``."""
    from serm.rollout.interleaved import read

    settings = _loaded(params)
    found = read(log, settings.engine, settings.rollout.alpha, settings.rollout.planned_users)
    at = found.interval
    told: Figures = {"users": found.users, "pages": found.pages}
    told |= {"pages_for_the_challenger": found.for_challenger, "pages_for_the_champion": found.for_champion}
    bounds = {"preference": at.difference, "low": at.low, "high": at.high}
    told |= {name: round(one, 4) for name, one in bounds.items() if isfinite(one)}
    show("interleaved pages", told, json)


@app.command()
@reads
def start(
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    deployed: Gate = CYCLE / "deploy",
    commit: Commit = True,
    json: Json = False,
) -> None:
    """Give a challenger that passed the gate the first step's share of the users, and commit the record."""
    from serm.rollout import controller

    settings = _loaded(params)
    name = experiment or settings.cycle.name
    _passed(deployed, settings)
    model = _published(settings)
    with _traffic(settings) as traffic:
        record = controller.start(records, name, settings.rollout, traffic, model=model)
    if commit and DVC.is_dir():
        _commit(records / f"{name}.json", f"Rollout of {name}: begun with {record.percent} %", settings)
    _show(record, json)


@app.command()
@reads
def tick(
    log: Log,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Look at what users did, decide, and set the traffic. Run it from a CronJob; it may run twice, or be killed."""
    from serm.rollout import controller

    settings, name = _named(params, experiment, records)
    with _traffic(settings) as traffic:
        done = controller.tick(records, name, log, settings.engine, traffic, dry_run=dry_run)
    if not dry_run:
        _show(done.record, json)
        return
    print(jsonlib.dumps({**_tried(done), "would_send": done.patch}, indent=None if json else 2, ensure_ascii=False))


@app.command()
@reads
def watch(
    log: Log,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    every: Every = 3600.0,
    json: Json = False,
) -> None:
    """Tick until it is decided: exit code 0 promoted, 1 rolled back or broken, 3 inconclusive or told to end.

    SIGTERM and Ctrl+C end it after the tick under way; another watch goes on where it stopped.
    """
    from serm.rollout import controller
    from serm.rollout.watch import until_told
    from serm.rollout.watch import watch as ticks

    settings, name = _named(params, experiment, records)

    def once() -> Tick:
        with _traffic(settings) as traffic:
            return controller.tick(records, name, log, settings.engine, traffic)

    with until_told() as stop:
        ended = ticks(once, every, stop, partial(_tell, json=json))
    raise typer.Exit(3 if ended is None else _ENDED[ended.outcome])


@app.command()
@reads
def status(
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    html: Html = None,
    json: Json = False,
) -> None:
    """Show where a rollout stands, and why; with --html as a page with its whole ramp."""
    from serm.rollout.record import load, path_of

    _, name = _named(params, experiment, records)
    record = load(path_of(records, name))
    if html is not None:
        from serm.report import ramp

        print(ramp.page(path_of(records, name), html))
        return
    _show(record, json)


@app.command()
@reads
def verdict(
    log: Log, params: Params = PARAMS, experiment: Experiment = None, records: Records = ROLLOUTS, json: Json = False
) -> None:
    """Say what a tick would decide, and set nothing: exit code 0 go on or promote, 1 roll back or error, 3 wait."""
    found = _verdict(log, params, experiment, records)
    if json:
        print(jsonlib.dumps(asdict(found)))
    else:
        print(visible(f"{found.action}: {'; '.join(found.reasons)}"))
    raise typer.Exit(_CODES[found.action])


@app.command("serve-verdict")
@reads
def serve_verdict(
    log: Log,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    host: Host = "127.0.0.1",
    port: Port = 8011,
    every: Fresh = 60.0,
) -> None:
    """Answer with the verdict over HTTP, for Argo Rollouts' AnalysisTemplate or Flagger's webhooks; set nothing."""
    from serm.rollout.verdict import Asked, server

    _named(params, experiment, records)
    answering = server(Asked(partial(_verdict, log, params, experiment, records), every), host, port)
    with answering:
        print(f"http://{host}:{answering.server_port}/verdict (Ctrl+C ends)", flush=True)
        with suppress(KeyboardInterrupt):
            answering.serve_forever()


@app.command()
@reads
def abort(
    why: Why,
    params: Params = PARAMS,
    experiment: Experiment = None,
    records: Records = ROLLOUTS,
    json: Json = False,
) -> None:
    """Take the challenger back to 0 now, also one that was promoted, and end its rollout."""
    from serm.rollout import controller

    settings, name = _named(params, experiment, records)
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
    write_text(file, lines(experiment or _loaded(params).cycle.name, 0))


def _loaded(params: Path) -> Settings:
    from serm import settings

    return settings.load(params)


def _named(params: Path, experiment: str | None, records: Path) -> tuple[Settings, str]:
    """Return the settings, and the name of the rollout that is meant: params.yaml may be a cycle further."""
    from serm.rollout.record import running

    settings = _loaded(params)
    return settings, experiment or running(records) or settings.cycle.name


def _traffic(settings: Settings) -> AbstractContextManager[Traffic]:
    from serm.rollout.traffic import connect

    rollout, serving = settings.rollout, settings.serving
    return connect(rollout.traffic, rollout.traffic_options, serving.namespace, serving.name)


def _verdict(log: Path, params: Path, experiment: str | None, records: Path) -> Verdict:
    from serm.rollout import controller
    from serm.rollout.verdict import verdict as of

    settings, name = _named(params, experiment, records)
    with _traffic(settings) as traffic:
        return of(controller.tick(records, name, log, settings.engine, traffic, dry_run=True))


def _tell(found: Record | UserError, *, json: bool) -> None:
    """Print a line of a watch: the last look, or why a tick failed."""
    if isinstance(found, UserError):
        typer.echo(f"Error: {visible(str(found))}", err=True)
        return
    last = found.decisions[-1] if found.decisions else None
    if json:
        told = last.model_dump(mode="json") if last else {}
        print(jsonlib.dumps({"outcome": found.outcome, "percent": found.percent, "last": told}), flush=True)
        return
    what = f"{last.at:%Y-%m-%d %H:%M} UTC: {last.action.replace('_', ' ')}, {'; '.join(last.reasons)}" if last else ""
    print(visible(f"{found.percent} % {what}"), flush=True)


def _tried(done: Tick) -> dict[str, Any]:
    """Return what a dry run says: what it decides, or what was begun before and is to be ended, or how it ended."""
    record = done.record
    if (decided := done.decision) is not None:
        return {"action": decided.action, "percent": decided.percent, "reasons": decided.reasons}
    last = record.decisions[-1] if record.decisions else None
    reasons = last.reasons if last else ()
    if record.pending is not None:
        return {"pending": record.pending.action, "percent": record.pending.percent, "reasons": reasons}
    return {"outcome": record.outcome, "percent": record.percent, "reasons": reasons}


def _passed(deployed: Path, settings: Settings) -> None:
    """Refuse a challenger of another cycle, one that the gate did not pass, and one that was too slow here."""
    import yaml

    path = deployed / "deploy.json"
    try:
        tried = jsonlib.loads(path.read_text(encoding="utf-8"))
        gate, p95 = tried["gate"], tried["variants"]["challenger"]["latency_ms"]["p95"]
        manifest = yaml.safe_load((deployed / "inferenceservice.yaml").read_text(encoding="utf-8"))
        cycle = manifest["metadata"]["annotations"]["serm/cycle"]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); run the deploy step before.") from error
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{deployed}: no output of the deploy step ({error!r}); run it again.") from error
    if cycle != settings.cycle.name:
        raise UserError(
            f"{deployed}: holds the challenger of {cycle}, and params.yaml is at {settings.cycle.name}; give "
            "--deployed the output of this cycle's deploy step, or set cycle.number to that cycle's."
        )
    if gate != "passed":
        raise UserError(f"{path}: the gate's result is {gate!r}: users do not see this challenger.")
    if p95 is None or p95 > settings.serving.max_p95_ms:
        raise UserError(
            f"{path}: 95 % of the challenger's requests took up to {p95} ms, and serving.max_p95_ms is "
            f"{settings.serving.max_p95_ms:g}: users do not see this challenger."
        )


def _published(settings: Settings) -> Model | None:
    """Return which model the cycle's tag pins, so that ``advance`` takes no other one; None without a tag."""
    from serm.rollout.record import Model
    from serm.workspace.advance import model_of
    from serm.workspace.store import Workspace

    tag = settings.cycle.name
    try:
        if (workspace := Workspace(Path())).has_tag(tag):
            return Model.model_validate(model_of(workspace, tag))
        why = f"{tag} is not published; run `serm publish` first"
    except UserError as error:  # no git here, or it is not to be read
        why = str(error)
    if settings.rollout.required:
        raise UserError(f"rollout.required wants a record of what the cycle's tag pins: {why}")
    return None


def _commit(path: Path, message: str, settings: Settings) -> None:
    """Commit the record and nothing else, and push it if the settings say so: a run on Kubeflow reads it from git."""
    from serm.workspace.origin import push
    from serm.workspace.store import Workspace

    try:
        workspace = Workspace(Path())
        workspace.commit(message, (path,))
        push(workspace, settings.publish)
    except UserError as error:  # the rollout has begun all the same
        typer.echo(f"{path} is not committed, or not pushed; do it by hand: {visible(str(error))}", err=True)


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
