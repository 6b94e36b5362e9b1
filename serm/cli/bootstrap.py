"""``serm bootstrap``: without judgments, what to judge is drawn from the log, for LLM judges and people."""

from __future__ import annotations

import json as jsonlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.documents import Body, Id, Published, Title
from serm.cli.init import Documents, Every, Knowledge, Locale, Log
from serm.cli.options import Json, command, show

Out = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory to make, for `serm init --judgments`.")]
Queries = Annotated[int, typer.Option(min=4, help="How many queries to draw.")]
Sample = Annotated[int, typer.Option(min=0, help="Pairs that the LLM judges graded and people are asked too.")]
Judges = Annotated[
    Path | None,
    typer.Option(
        "--params", help="A params.yaml whose section `judging` names LLM judges. Default: all pairs are for people."
    ),
]


class Draw(StrEnum):
    """How queries are drawn."""

    stratified = "stratified"
    random = "random"
    pps = "pps"
    top = "top"


How = Annotated[
    Draw,
    typer.Option(
        help="stratified: head, torso and tail alike; random: each query alike; pps: by its searches; top: the most "
        "searched for."
    ),
]


def bootstrap(
    out: Out,
    log: Log,
    documents: Documents,
    queries: Queries = 300,
    draw: How = Draw.stratified,
    sample: Sample = 100,
    params: Judges = None,
    id: Id = None,
    title: Title = None,
    body: Body = None,
    locale: Locale = None,
    published_at: Published = None,
    knowledge: Knowledge = None,
    every: Every = None,
    json: Json = False,
) -> None:
    """Without judgments: draw queries of the log and what they are served, have them graded; run it again to go on."""
    from serm.catalogue import Asked
    from serm.founding import bootstrap as cold
    from serm.founding.given import early, settled

    asked = Asked(id, title, body, locale, published_at)
    options = settled(documents, asked, params, locale=locale, base=None, every=every)
    wanted = cold.Wanted(log, documents, asked, queries, draw.value, sample, options["every"], knowledge)
    told = cold.bootstrap(
        out, wanted, early(options["locale"], params), lambda line: print(line, file=sys.stderr, flush=True)
    )
    if json:
        print(jsonlib.dumps(told, sort_keys=True))
        return
    show("serm bootstrap", {name: value for name, value in told.items() if isinstance(value, int | str)}, False)
    for note in told["notes"]:
        print(f"- {note}")
    places = {"annotated": out / cold.ANNOTATED, "validated": out / cold.VALIDATED, "out": out / cold.REVIEWED}
    given: dict[str, object] = {
        "log": log,
        "documents": documents,
        "judgments": out,
        "id": id,
        "title": title,
        "body": body,
    }
    given |= {"locale": locale, "published_at": published_at, "knowledge": knowledge, "every": every}
    print("\nNext:", *([command("serm review", **places)] if told["to_review"] else []), sep="\n  ")
    print("  " + command("serm init WORKSPACE", **given))
