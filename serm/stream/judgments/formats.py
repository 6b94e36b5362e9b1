"""The formats of judgment files: one small function each, which knows its own content.

A function tells the rows of a file that is of its format, and None of any other; ``FORMATS`` has them in the order in
which they are asked.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from serm.errors import UserError
from serm.stream.judgments import quepid, tables, trees
from serm.stream.judgments.source import Source, Told, columns


def _parquet(source: Source) -> Told | None:
    """A Parquet file with columns of known names, such as ESCI's examples."""
    if not source.data.startswith(b"PAR1"):
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(source.data))
        named = columns(file.schema_arrow.names)
        table = file.read(columns=list(named.values())) if named else None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.path}: not a readable Parquet file ({str(error).splitlines()[0][:200]}).") from error
    if table is None:
        raise UserError(f"{source.path}: no columns of query, document and rating; it has {file.schema_arrow.names}.")
    return Told("Parquet", trees.rows(table.to_pylist(), "row"))


def _other_json(source: Source) -> Told | None:
    """JSON of no known kind is told here, before its text is taken for a table."""
    if source.json is None and source.path.suffix != ".json":
        return None
    raise UserError(
        f"{source.path}: not an OpenSearch judgment list (judgmentRatings), a Quepid export (queries with ratings, or "
        "query_doc_pairs), rank_eval requests or qrels of pytrec_eval, nor a list of objects with query, doc_id and "
        "rating."
    )


FORMATS: tuple[Callable[[Source], Told | None], ...] = (
    _parquet,
    trees.judgment_list,
    quepid.case,
    quepid.rated_by_grade,
    quepid.book,
    quepid.ratings,
    trees.json_rows,
    trees.rank_eval,
    trees.pytrec,
    _other_json,
    tables.headed,
    tables.of_judges,
    tables.bare,
)
