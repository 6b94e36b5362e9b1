"""``serm documents``: the catalogue in, from the files that a search team has, and kept up to date."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.cli.options import Json, show
from serm.cli.standing import writes
from serm.layout import DOCUMENTS, JUDGMENTS, PARAMS, TESTS

if TYPE_CHECKING:
    from serm.catalogue import Taken
    from serm.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The catalogue in, from your own files, and kept up to date.")

Catalogue = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A file, or a directory of them: JSON lines, a JSON array, CSV, TSV, Parquet, OpenSearch bulk or "
        "elasticdump, plain, gzip or zstd. Its content tells which.",
    ),
]
NewOnes = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PATH]",
        help="As for `serm documents import`: documents that are new or changed. Not needed with --gone.",
    ),
]
Out = Annotated[Path, typer.Option("--documents", help="The dataset of documents to write.")]
Id = Annotated[str | None, typer.Option(help="The field that is the id. Default: by its name.")]
Title = Annotated[str | None, typer.Option(help="The field that is the title. Default: by its name.")]
Body = Annotated[
    list[str] | None,
    typer.Option(help="A field of the body; given several times, they are joined in this order. Default: by name."),
]
Locale = Annotated[
    str | None,
    typer.Option(help="The field that is the locale, or the locale of all. Default: by name, or stream.locale."),
]
Published = Annotated[
    str | None,
    typer.Option(
        "--published-at", help="The field that says since when; empty: none. Default: by its name, or unknown."
    ),
]
Quarantine = Annotated[
    Path | None, typer.Option(help="Where the documents that cannot be kept go. Default: DOCUMENTS.quarantine.jsonl.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]
Gone = Annotated[Path | None, typer.Option(help="A file with the ids of documents that are gone, one on each line.")]
Snapshot = Annotated[bool, typer.Option("--snapshot", help="PATH is the whole catalogue: what it lacks is gone.")]


@app.command("import")
@writes
def import_(
    path: Catalogue,
    documents: Out = DOCUMENTS,
    id: Id = None,
    title: Title = None,
    body: Body = None,
    locale: Locale = None,
    published_at: Published = None,
    quarantine: Quarantine = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make the documents anew from the files of PATH; what cannot be kept goes aside, with file, line and reason."""
    from serm.catalogue import Asked, import_documents

    aside = _aside(quarantine, documents)
    asked = Asked(id, title, body, locale, published_at)
    with _progress(json) as progress:
        taken = import_documents(
            path, None if dry_run else documents, None if dry_run else aside, asked, _settings(), progress
        )
    _show("documents import", taken, aside, dry_run, json)


@app.command()
@writes
def update(
    path: NewOnes = None,
    documents: Out = DOCUMENTS,
    gone: Gone = None,
    snapshot: Snapshot = False,
    id: Id = None,
    title: Title = None,
    body: Body = None,
    locale: Locale = None,
    published_at: Published = None,
    quarantine: Quarantine = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Take new and changed documents in, by their ids, and those that are gone out; their judgments are retired."""
    from serm.catalogue import Asked, update_documents

    aside = _aside(quarantine, documents)
    asked = Asked(id, title, body, locale, published_at)
    judged = [JUDGMENTS, *sorted({file.parent for file in TESTS.rglob("*.parquet")})]
    with _progress(json) as progress:
        taken = update_documents(
            path,
            documents,
            aside,
            asked,
            _settings(),
            gone=gone,
            snapshot=snapshot,
            judgments=judged,
            dry_run=dry_run,
            progress=progress,
        )
    _show("documents update", taken, aside, dry_run, json)


def _aside(quarantine: Path | None, documents: Path) -> Path:
    return quarantine or documents.with_name(f"{documents.name}.quarantine.jsonl")


def _settings() -> Settings:
    """The workspace's; before there is one, the defaults: of them the engine and the locale are used."""
    from serm import settings

    if PARAMS.exists():
        return settings.load(PARAMS)
    cycle = {"number": 1, "start": "1970-01-01T00:00:00Z", "end": "1970-01-02T00:00:00Z"}
    return settings.Settings.model_validate({"cycle": cycle})


@contextmanager
def _progress(json: bool) -> Iterator[Callable[[int], None]]:
    """Count on a terminal, on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if json or not console.is_terminal:
        yield lambda rows: None
        return
    with console.status("Reading documents ...") as status:
        yield lambda rows: status.update(f"Reading documents ... {rows:,}")


def _show(title: str, taken: Taken, aside: Path, dry_run: bool, json: bool) -> None:
    from serm.escaping import visible

    fields, figures = taken.fields.told() if taken.fields else {}, taken.figures
    if json:
        told = {"fields": fields, "dry_run": dry_run, **figures, "examples": taken.examples}
        print(jsonlib.dumps(told, sort_keys=True, default=str))
        return
    if fields:
        show("fields", {name: visible(value)[:200] for name, value in fields.items()}, json=False)
    counts = {name: value for name, value in figures.items() if isinstance(value, int)}
    retired = {f"judgments retired of {path}": rows for path, rows in figures.get("retired", {}).items() if rows}
    locales = ", ".join(f"{visible(name)} {rows:,}" for name, rows in list(figures["locales"].items())[:10])
    lengths = ", ".join(f"{name} {value:,}" for name, value in figures["characters"].items())
    show(title, {**counts, **retired, "locales": locales, "characters": lengths}, json=False)
    for reason, rows in list(figures["reasons"].items())[:10]:
        print(f"{rows:,} quarantined: {visible(reason)}")
    if dry_run:
        print("Nothing was written (--dry-run).")
    elif figures["quarantined"]:
        print(f"File, line and reason of each: {aside}")
