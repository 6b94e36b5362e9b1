"""``serm judgments``: judgments in and out as OpenSearch judgment lists and TREC qrels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Json, Judgments, show
from serm.errors import UserError
from serm.workspace.layout import JUDGMENTS

app = typer.Typer(no_args_is_help=True, help="Judgments in and out: OpenSearch judgment lists and TREC qrels.")

File = Annotated[
    Path,
    typer.Argument(
        help="A judgment list (its name ends with .json), or TREC qrels; the queries' text of FILE is in "
        "FILE.queries.tsv then: a line each, id, tab, text."
    ),
]
Locale = Annotated[str, typer.Option(help="The locale of the judgments, which the formats cannot hold.")]
Ratings = Annotated[str, typer.Option(help="The file's ratings of grade 0, 1, 2 and 3; ESCI has 0,1,10,100.")]


@app.command("import")
def import_(
    file: File,
    locale: Locale,
    judgments: Judgments = JUDGMENTS,
    ratings: Ratings = "0,1,2,3",
    json: Json = False,
) -> None:
    """Add the judgments of FILE as seed judgments; a pair that is judged already keeps its grade."""
    from serm import contracts
    from serm.stream.judgments import read
    from serm.workspace.advance import merged

    new = read(file, locale, _numbers(ratings))
    earlier = contracts.JUDGMENTS.empty_table()
    if judgments.exists():
        earlier = contracts.read(judgments, contracts.JUDGMENTS)
    both = merged(earlier, new)
    contracts.write(both, judgments, contracts.JUDGMENTS)
    added = both.num_rows - earlier.num_rows
    figures = {"read": new.num_rows, "added": added, "judged_before": new.num_rows - added, "judgments": both.num_rows}
    show("judgments import", {**figures}, json)


@app.command()
def export(
    file: File,
    locale: Locale,
    judgments: Judgments = JUDGMENTS,
    ratings: Ratings = "0,1,2,3",
    json: Json = False,
) -> None:
    """Write the judgments of one locale to FILE: query, document and rating, which is all that the formats hold."""
    import pyarrow.compute as pc

    from serm import contracts
    from serm.stream.judgments import write

    table = contracts.read(judgments, contracts.JUDGMENTS)
    chosen = table.filter(pc.equal(table["locale"], locale))
    if not chosen.num_rows:
        known = ", ".join(sorted(set(table["locale"].to_pylist()))) or "none"
        raise UserError(f"{judgments}: no judgments of locale {locale!r}; it has {known}.")
    write(chosen, file, _numbers(ratings))
    figures = {"written": chosen.num_rows, "queries": pc.count_distinct(chosen["query"]).as_py()}
    show("judgments export", {**figures, "of_other_locales": table.num_rows - chosen.num_rows}, json)


def _numbers(ratings: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in ratings.split(","))
    except ValueError:
        numbers = ()
    if len(set(numbers)) != 4:
        raise UserError(f"--ratings {ratings}: expected four different numbers, for example 0,1,10,100.")
    return numbers
