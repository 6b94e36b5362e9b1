"""The command line: one file a verb, each thin over one library function; the steps' verbs come from their table.

Heavy libraries are imported inside the verbs, so that ``serm --help`` answers at once.
"""

from __future__ import annotations

import logging
import signal
import sys
from functools import partial
from types import FrameType
from typing import Annotated, NoReturn

import typer

from serm.cli import (
    advance,
    annotate,
    begin,
    bootstrap,
    demo,
    distill,
    doctor,
    documents,
    evidently,
    evolve,
    export,
    init,
    judgments,
    lineage,
    metrics,
    report,
    review,
    rollout,
    submit,
    tests,
    trainjob,
)
from serm.cli.extras import extra_of
from serm.cli.standing import reads, writes
from serm.cli.steps import verb
from serm.errors import UserError, os_fault
from serm.escaping import visible
from serm.steps import TABLE

app = typer.Typer(
    help="Keep a search engine's relevance model true to what people search for now.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
LOOP, STEPS = "The loop", "The steps of a cycle, in order"
app.command(rich_help_panel=LOOP)(init.init)
app.command(rich_help_panel=LOOP)(bootstrap.bootstrap)
app.command(rich_help_panel=LOOP)(writes(evolve.evolve))
app.command(rich_help_panel=LOOP)(writes(advance.advance))
app.command(rich_help_panel=LOOP)(reads(report.report))
app.command(rich_help_panel=LOOP)(reads(lineage.lineage))
app.command(rich_help_panel=LOOP)(reads(review.review))  # people grade for days: it has a lock of its own
app.command(rich_help_panel=LOOP)(writes(export.export))
app.command(rich_help_panel=LOOP)(demo.demo)
app.command(rich_help_panel=LOOP)(doctor.doctor)
app.command(rich_help_panel=LOOP)(writes(distill.distill))
app.command(rich_help_panel=LOOP)(reads(metrics.metrics))
app.command(rich_help_panel=LOOP)(writes(evidently.evidently))
app.command(rich_help_panel=LOOP)(reads(trainjob.trainjob))
app.command(rich_help_panel=LOOP)(reads(submit.submit))
app.add_typer(documents.app, name="documents", rich_help_panel=LOOP)
app.add_typer(judgments.app, name="judgments", rich_help_panel=LOOP)
app.add_typer(tests.app, name="tests", rich_help_panel=LOOP)
app.add_typer(rollout.app, name="rollout", rich_help_panel=LOOP)
app.command(rich_help_panel=STEPS)(writes(begin.begin))
for one in TABLE:
    app.command(rich_help_panel=STEPS)(writes(annotate.annotate if one.name == "annotate" else verb(one)))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"serm {version('serm')}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake prints one sentence and exits with code 2, an interruption with 130."""
    if logging.lastResort is not None:  # what prints warnings, where nobody has set up logging
        logging.lastResort.setFormatter(_Visible())
    interrupted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, partial(_interrupt, interrupted))
    try:
        app()
    except Exception as error:
        if interrupted:  # what a library makes of it: DuckDB's "Query interrupted", for example
            print("Aborted.", file=sys.stderr)
            sys.exit(130)
        _tell(error)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(interrupted: list[int], number: int, frame: FrameType | None) -> None:
    interrupted.append(number)
    signal.default_int_handler(number, frame)


def _tell(error: Exception) -> NoReturn:
    """Print a user's mistake as one sentence and exit with code 2; raise an ``error`` that is none."""
    if isinstance(error, UserError):
        told = visible(str(error))
    elif isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name or "")) is not None:
        told = f"{error.name} is not installed; run pip install '{f'serm[{extra}]' if extra else 'serm'}'."
    elif isinstance(error, OSError) and (fault := os_fault(error)) is not None:
        told = visible(str(fault))
    elif isinstance(error, FileNotFoundError) and error.filename:  # also where a file system makes no directory
        told = visible(f"{error.filename}: {error.strerror}; put it there, or give another path.")
    else:
        raise error
    print(f"Error: {told}", file=sys.stderr)
    sys.exit(2)


class _Visible(logging.Formatter):
    """Writes control characters out: warnings quote what a log, a catalogue or a judge holds."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
