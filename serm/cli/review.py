"""``serm review``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Annotated_, Validated
from serm.workspace.layout import CYCLE


class Tool(StrEnum):
    """Other tools that people grade in."""

    label_studio = "label-studio"
    argilla = "argilla"


ReviewedOut = Annotated[Path, typer.Option(help="The human judgments (Parquet, source `human`); added to.")]
Port = Annotated[int, typer.Option(help="The page's port on this machine.", min=0, max=65535)]
Export = Annotated[Path | None, typer.Option(help="Write the ungraded pairs as a file for --tool, and stop.")]
Import = Annotated[Path | None, typer.Option("--import", help="Read the grades of an export of --tool, and stop.")]
ToolOption = Annotated[Tool, typer.Option(help="The tool of --export and --import.")]


def review(
    annotated: Annotated_ = CYCLE / "annotate",
    validated: Validated = CYCLE / "validate",
    out: ReviewedOut = Path("reviewed"),
    port: Port = 8410,
    export: Export = None,
    import_: Import = None,
    tool: ToolOption = Tool.label_studio,
) -> None:
    """Grade what the panel could not agree on, on a page in the browser; the keys 0 to 3 do it."""
    from serm.judging.review import Reviews, read_grades, serve, write_tasks
    from serm.judging.review.formats import LABEL_STUDIO_CONFIG

    reviews = Reviews(annotated, validated, out)
    if import_ is not None:
        changed = reviews.take(read_grades(import_, tool.value))
        print(f"{changed} judgments taken from {import_}; {out} has {len(reviews.graded)} of {len(reviews.items)}.")
    elif export is not None:
        print(f"{write_tasks(reviews.left, export, tool.value)} pairs written to {export}.")
        if tool is Tool.label_studio:
            print(f"Labelling interface of the project: {LABEL_STUDIO_CONFIG}")
    else:
        print(f"{len(reviews.left)} pairs to grade: http://127.0.0.1:{port} (Ctrl+C ends; each grade is kept at once)")
        serve(reviews, port)
