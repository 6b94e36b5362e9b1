"""``serm review``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.cli.options import Annotated_, Validated
from serm.errors import UserError
from serm.layout import CYCLE, TEST_REVIEWED, TESTS

if TYPE_CHECKING:
    from serm.judging.review import Export, Reviews


class Tool(StrEnum):
    """Other tools that people grade in."""

    label_studio = "label-studio"
    argilla = "argilla"


ReviewedOut = Annotated[Path, typer.Option(help="The human judgments (Parquet, source `human`); added to.")]
Port = Annotated[int, typer.Option(help="The page's port on this machine.", min=0, max=65535)]
ExportTo = Annotated[Path | None, typer.Option(help="Write the ungraded pairs as a file for --tool, and stop.")]
ImportFrom = Annotated[Path | None, typer.Option("--import", help="Read the answers of a tool's export, and stop.")]
OfTests = Annotated[
    bool, typer.Option("--tests", help="Grade what was drawn for the rolling test set, in the place of mined pairs.")
]
ToolOption = Annotated[Tool, typer.Option(help="The tool of --export; an export to --import is told by its content.")]


def review(
    annotated: Annotated_ = CYCLE / "annotate",
    validated: Validated = CYCLE / "validate",
    out: ReviewedOut = Path("reviewed"),
    port: Port = 8410,
    export: ExportTo = None,
    import_: ImportFrom = None,
    tool: ToolOption = Tool.label_studio,
    tests: OfTests = False,
) -> None:
    """Grade what the panel could not agree on, on a page in the browser; the keys 0 to 3 do it."""
    from serm.judging.review import LABEL_STUDIO_CONFIG, Reviews, listen, read_export, serve, write_tasks

    if tests:
        # as serm.pooling.rolling writes it
        annotated, validated, out = TESTS / "review/annotate", TESTS / "review/validate", TEST_REVIEWED
    if not (annotated / "review").exists():
        made = "`serm evolve` draws it before each cycle (tests.draw)" if tests else "a cycle's annotate step makes it"
        raise UserError(f"{annotated}: nothing to review there yet; {made}.")
    reviews = Reviews(annotated, validated, out)
    if import_ is not None:
        _take(reviews, read_export(import_))
    elif export is not None:
        print(f"{write_tasks(reviews.left, export, tool.value)} pairs written to {export}.")
        if tool is Tool.label_studio:
            print(f"Labelling interface of the project: {LABEL_STUDIO_CONFIG}")
    else:
        listener = listen(port)
        url = "http://{}:{}".format(*listener.getsockname())
        print(f"{len(reviews.left)} pairs to grade: {url} (Ctrl+C ends; each grade is kept at once)", flush=True)
        serve(reviews, listener)


def _take(reviews: Reviews, export: Export) -> None:
    """Take the answers and say what became of each."""
    taken = reviews.take(export.answers)
    outside = f", {taken.outside} of them not of this queue" if taken.outside else ""
    print(f"{taken.changed} judgments taken from {export.path}{outside};", end=" ")
    print(f"{reviews.out} has {len(reviews.graded)} of {len(reviews.items)}.")
    if taken.divided:
        query, _, doc_id = taken.divided[0]
        print(f"{len(taken.divided)} pairs without a grade: people differ evenly (first: {doc_id!r} for {query!r}).")
    left_out = dict(export.left_out)
    if taken.unknown:
        left_out["are of pairs that neither the queue nor the export names"] = taken.unknown
    for why, rows in sorted(left_out.items()):
        named = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        print(f"{len(rows)} answers left out, which {why} (rows {named}).")
