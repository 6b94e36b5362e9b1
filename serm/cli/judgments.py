"""``serm judgments``: judgments in and out, in the formats that they are kept in, and mended by a person."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.cli.options import Json, Judgments, show
from serm.cli.standing import reads, writes
from serm.errors import UserError
from serm.escaping import visible
from serm.layout import JUDGMENTS, PARAMS

if TYPE_CHECKING:
    from serm.stream.judgments import Imported

app = typer.Typer(no_args_is_help=True, help="Judgments in and out (lists, qrels, tables), and mended.")

FileIn = Annotated[
    Path,
    typer.Argument(
        help="An OpenSearch judgment list; qrels of TREC, BEIR, MS MARCO, NTCIR or pytrec_eval; Quepid's exports of a "
        "case or a book; rank_eval requests; a table (CSV, TSV, JSON, Parquet) with query, document and rating, such "
        "as ESCI's; plain, gzip or zstd. Its content tells which."
    ),
]
File = Annotated[
    Path,
    typer.Argument(
        help="The file to write. Qrels name queries by ids: their texts go to FILE.queries.tsv, BEIR's to "
        "queries.jsonl (above a directory qrels, or beside FILE)."
    ),
]
Locale = Annotated[str, typer.Option(help="The locale of the judgments; of a file with several, those to read.")]
Queries = Annotated[
    Path | None,
    typer.Option(
        help="The queries' texts, for qrels, which have ids: a line each, id, tab, text, or BEIR's queries.jsonl. "
        "Default: FILE.queries.tsv, or queries.jsonl beside FILE or above."
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="The file's ratings of grade 0, 1, 2 and 3 (0,1,10,100), or a map ('0=-1,0;1=1;2=2;3=3,4'), or three cuts "
        "between the grades (0.25,0.5,0.75). Default: the grades themselves, NTCIR's L0 to L3, ESCI's labels."
    ),
]
Quarantine = Annotated[
    Path | None, typer.Option(help="Where the rows that are no judgments go. Default: FILE.quarantine.jsonl.")
]


class Format(StrEnum):
    """What `serm judgments export` writes."""

    judgment_list = "judgment-list"
    qrels = "qrels"
    beir = "beir"
    quepid = "quepid"
    quepid_case = "quepid-case"
    rank_eval = "rank-eval"
    pytrec = "pytrec"


FormatOut = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="OpenSearch's judgment list, TREC qrels, BEIR's, Quepid's CSV or case, Elasticsearch's rank_eval, or "
        "pytrec_eval's JSON. Default: a list where FILE ends with .json, else qrels.",
    ),
]
Ratings = Annotated[str, typer.Option(help="The file's ratings of grade 0, 1, 2 and 3; ESCI has 0,1,10,100.")]


@app.command("import")
@writes
def import_(
    file: FileIn,
    locale: Locale,
    judgments: Judgments = JUDGMENTS,
    ratings: Scale = None,
    queries: Queries = None,
    quarantine: Quarantine = None,
    json: Json = False,
) -> None:
    """Add the judgments of FILE as seed judgments; a pair keeps a person's grade, and takes the new one else."""
    from serm import contracts
    from serm.stream.judgments import read, scale
    from serm.workspace.merge import keep

    aside = quarantine or file.with_name(f"{file.name}.quarantine.jsonl")
    if aside.exists() and file.exists() and aside.samefile(file):
        raise UserError(f"--quarantine {aside}: is FILE itself; give another one.")
    found = read(file, locale, scale(ratings) if ratings is not None else None, queries)
    set_aside(found, aside)
    new = found.judgments
    earlier = contracts.JUDGMENTS.empty_table()
    if judgments.exists():
        earlier = contracts.read(judgments, contracts.JUDGMENTS)
    both = keep(new, judgments)
    added = both.num_rows - earlier.num_rows
    out = {"quarantined": len(found.quarantined), "of_other_locales": found.of_other_locales}
    figures = {"read": new.num_rows, "added": added, "judged_before": new.num_rows - added, "judgments": both.num_rows}
    show("judgments import", {"read_as": found.form, "rows": found.rows, **out, **figures}, json)


def set_aside(found: Imported, path: Path) -> None:
    """Write the quarantined rows to ``path``, an object a line; one that lies there from an earlier import goes."""
    import json
    import sys
    from dataclasses import asdict

    from serm.atomic import write_text

    for note in found.notes:
        print(note, file=sys.stderr)
    try:
        path.unlink(missing_ok=True)
        if found.quarantined:
            write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found.quarantined))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another one with --quarantine.") from error
    if found.quarantined:
        first = found.quarantined[0]
        print(
            f"{len(found.quarantined)} of {found.rows} rows are no judgments and went to {path}; the first: "
            f"{visible(first.where)}, {visible(first.reason)}.",
            file=sys.stderr,
        )


Query = Annotated[str, typer.Argument(help="The query, as it stands in the judgments.")]
Document = Annotated[str, typer.Argument(metavar="DOC_ID", help="The document's id.")]
PairLocale = Annotated[str, typer.Option(help="The locale of the pair.")]
Grade = Annotated[int, typer.Option(min=0, max=3, help="0 bad, 1 fair, 2 good, 3 excellent.")]
By = Annotated[str, typer.Option(help="Who says so.")]
Why = Annotated[str, typer.Option(help="The reason; it stays with the judgment.")]


@app.command()
@writes
def correct(
    query: Query,
    doc_id: Document,
    locale: PairLocale,
    grade: Grade,
    by: By,
    why: Why,
    judgments: Judgments = JUDGMENTS,
    json: Json = False,
) -> None:
    """Give a pair a person's grade: it stands before any other, and the earlier one is kept in state/superseded."""
    from serm import settings
    from serm.workspace.mending import correct

    cycle = settings.load(PARAMS).cycle.number if PARAMS.exists() else 0
    before = correct(judgments, (query, locale, doc_id), grade, by, why, cycle)
    what = "added: it was not judged" if before is None else "corrected"
    show(
        "judgments correct", {"pair": what, "grade": grade, "grade_before": "none" if before is None else before}, json
    )


@app.command()
@writes
def retire(
    query: Query,
    doc_id: Document,
    locale: PairLocale,
    by: By,
    why: Why,
    judgments: Judgments = JUDGMENTS,
    json: Json = False,
) -> None:
    """Take the judgment of a pair out; it is kept in state/superseded, with who took it out and why."""
    from serm.workspace.mending import retire

    retire(judgments, (query, locale, doc_id), by, why)
    show("judgments retire", {"pair": "retired"}, json)


@app.command()
@reads
def export(
    file: File,
    locale: Locale,
    judgments: Judgments = JUDGMENTS,
    ratings: Ratings = "0,1,2,3",
    format: FormatOut = None,
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
    write(chosen, file, _numbers(ratings), format.value if format else None)
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
