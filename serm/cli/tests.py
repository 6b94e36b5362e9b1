"""``serm tests``: the test sets of a workspace."""

from __future__ import annotations

from pathlib import Path

import typer

from serm.cli.judgments import FileIn, Locale, Quarantine, Queries, Scale, set_aside
from serm.cli.options import Json, show
from serm.cli.standing import writes
from serm.errors import UserError
from serm.layout import PARAMS

app = typer.Typer(no_args_is_help=True, help="The test sets: a new frozen one, measured beside the old.")


@app.callback()
def _tests() -> None:
    """The test sets: a new frozen one, measured beside the old."""
    # A callback, so that `serm tests renew` keeps its verb while there is one alone.


@app.command()
@writes
def renew(
    file: FileIn,
    locale: Locale,
    ratings: Scale = None,
    queries: Queries = None,
    quarantine: Quarantine = None,
    json: Json = False,
) -> None:
    """Lay the judgments of FILE beside the frozen set; once a cycle has measured both, they take its place."""
    from serm import settings as params
    from serm.pooling.frozen import propose
    from serm.stream.judgments import read, scale

    if not PARAMS.exists():
        raise UserError(f"{Path.cwd()}: no workspace; go into one, or name it with --workspace.")
    settings = params.load(PARAMS)
    found = read(file, locale, scale(ratings) if ratings is not None else None, queries)
    set_aside(found, quarantine or file.with_name(f"{file.name}.quarantine.jsonl"))
    if not found.judgments.num_rows:
        raise UserError(f"{file}: no judgment of locale {locale!r} can be read in it; see `serm judgments import`.")
    figures = propose(Path.cwd(), found.judgments, settings)
    show("serm tests renew", {**figures, "quarantined": len(found.quarantined)}, json)
