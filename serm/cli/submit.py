"""``serm submit``: a pipeline on a cluster's Kubeflow Pipelines."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serm.cli.options import Json, Params
from serm.errors import UserError
from serm.escaping import visible
from serm.layout import PARAMS

if TYPE_CHECKING:
    from serm.kubeflow.api import Pipelines
    from serm.kubeflow.follow import Standing
    from serm.kubeflow.submit import Plan

Pipeline = Annotated[
    str,
    typer.Argument(
        help="backfill: the next cycles of a repository; watch: one as soon as something drifts; bootstrap: a "
        "workspace of raw files; rollout: a look at a rollout; evolve: one cycle on given URIs."
    ),
]
Host = Annotated[str | None, typer.Option(help="The URL of KFP's API, in the place of kubeflow.host.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; several times.")]
Cron = Annotated[
    str | None, typer.Option(help="Run it at these times (UTC), six fields: '0 0 3 * * *' is daily at 3. Not now.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Put this schedule in the place of the pipeline's other one.")]
Unschedule = Annotated[bool, typer.Option("--unschedule", help="Take the pipeline's schedule away; its runs stay.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")]
Package_ = Annotated[Path | None, typer.Option("--package", help="With --dry-run: a file for what would be uploaded.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the run has ended.")]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds to wait at most; the run goes on.")]
Every = Annotated[float, typer.Option(min=0.01, help="Seconds between two looks.")]
Follow = Annotated[str | None, typer.Option(metavar="RUN_ID", help="Submit nothing; wait for this run.")]


def submit(
    pipeline: Pipeline = "backfill",
    params: Params = PARAMS,
    host: Host = None,
    set_: Set = None,
    cron: Cron = None,
    replace: Replace = False,
    unschedule: Unschedule = False,
    dry_run: DryRun = False,
    package: Package_ = None,
    wait: Wait = True,
    timeout: Timeout = None,
    every: Every = 10.0,
    follow: Follow = None,
    json: Json = False,
) -> None:
    """Upload a pipeline to Kubeflow Pipelines and run it, now or on a schedule; exit code 1 if the run fails.

    The token is read from SERM_KFP_TOKEN, or from the file that kubeflow.token_file names.
    """
    from serm.kubeflow import submit as room

    if follow is not None:
        from serm import settings

        loaded = settings.load(params).kubeflow
        _end(_connect(loaded, host or loaded.host), follow, timeout, every, json)
        return
    if package is not None and not dry_run:
        raise UserError("--package: is written with --dry-run only; give both.")
    planned = room.plan(pipeline, params, dict(map(_pair, set_ or [])), host, cron)
    if dry_run:
        _show(planned, package, json)
        return
    from serm import settings

    api = _connect(settings.load(params).kubeflow, planned.host)
    if unschedule:
        print(f"{room.unschedule(planned, api)} of {planned.pipeline}'s schedules taken away; its runs stay.")
        return
    made = room.submit(planned, api, replace=replace, said=lambda line: print(visible(line), file=sys.stderr))
    if cron is not None or not wait:
        print(jsonlib.dumps({"id": made, "name": planned.run}) if json else made)
        return
    _end(api, made, timeout, every, json)


def _connect(settings: Any, host: str) -> Pipelines:
    from serm.kubeflow.api import Pipelines

    if not host:
        raise UserError("params.yaml: kubeflow.host: say where KFP's API is, or give --host.")
    return Pipelines(settings, host)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--set {text}: write NAME=VALUE.")
    return name, value


def _show(planned: Plan, package: Path | None, json: bool) -> None:
    if package is not None:
        from serm.atomic import write_text

        write_text(package, planned.package.text)
    told = planned.told()
    if json:
        print(jsonlib.dumps(told, sort_keys=True))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="serm submit would send", show_header=False, title_justify="left")
    for name, value in (told | {f"parameter {name}": value for name, value in told["parameters"].items()}).items():
        if name != "parameters":
            table.add_row(name, visible(str(value)))
    Console().print(table)


def _end(api: Pipelines, run_id: str, timeout: float | None, every: float, json: bool) -> None:
    """Follow a run to its end, and end as it did."""
    from serm.kubeflow.follow import follow
    from serm.kubeflow.report import fetch_report

    try:
        with _progress() as show:
            ended = follow(api, run_id, show, seconds=timeout, every=every)
    except KeyboardInterrupt:
        print(f"\nThe run goes on; look again with `serm submit --follow {run_id}`.", file=sys.stderr)
        raise typer.Exit(130) from None
    if json:
        print(jsonlib.dumps({"id": run_id, "state": ended.state, "tasks": ended.tasks, "errors": ended.errors}))
    for error in ended.errors:
        print(f"Error: {visible(error)}", file=sys.stderr)
    if not ended.succeeded:
        print(f"The run {run_id} {ended.state}; its tasks' logs are in KFP's page of it.", file=sys.stderr)
        raise typer.Exit(1)
    try:
        page = fetch_report(Path.cwd())
    except UserError as error:  # the run's end is what counts for whoever waits for it
        print(f"The run succeeded; its report is not fetched: {visible(str(error))}", file=sys.stderr)
        return
    if page is not None:
        print(f"The report, with what the run published: {page}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[Standing], None]]:
    """Yield what shows how a run stands: a table that stays in its place on a terminal, else a line for each change."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console(stderr=True)
    if not console.is_terminal:
        before: dict[str, str] = {}

        def tell(standing: Standing) -> None:
            for name, state in {**standing.tasks, "the run": standing.state}.items():
                if before.get(name) != state:
                    print(f"{datetime.now():%H:%M:%S} {visible(name)}: {state}", file=sys.stderr, flush=True)
            before.update({**standing.tasks, "the run": standing.state})

        yield tell
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw(standing: Standing) -> None:
            table = Table("task", "state", title=f"the run is {standing.state}", title_justify="left")
            for name, state in standing.tasks.items():
                table.add_row(visible(name), state)
            live.update(table, refresh=True)

        yield draw
