"""The datasets that SERM's steps hand to each other, and the only place that spells their columns.

A dataset is a directory of Parquet files with one of the schemas below. ``read`` and ``write`` move whole
datasets (for small ones: judgments, mined pairs); ``scan`` opens one lazily in an ibis engine, for logs.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from serm import parquet
from serm.atomic import replace_directory
from serm.errors import UserError

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend


class Grade(IntEnum):
    """How well a document answers a query, as a person would judge it."""

    BAD = 0
    FAIR = 1
    GOOD = 2
    EXCELLENT = 3


def _field(name: str, kind: pa.DataType, *, optional: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=optional)


_TIME = pa.timestamp("us", tz="UTC")

#: The catalogue. ``doc_id`` is unique over all locales; ``published_at`` is when the document went live.
DOCUMENTS = pa.schema(
    [
        _field("doc_id", pa.string()),
        _field("locale", pa.string()),
        _field("title", pa.string()),
        _field("body", pa.string()),
        _field("published_at", _TIME),
        _field("attributes", pa.map_(pa.string(), pa.string())),
    ]
)

#: Documents that a catalogue had and that were taken out of it: the dataset ``_removed`` in the catalogue's directory.
REMOVED = pa.schema([_field("doc_id", pa.string())])

#: One row for each document shown to a user. ``position`` counts from 1, ``user_id`` is a keyed hash,
#: ``score`` is the expected grade (0 to 3) that the serving model gave, ``dwell_seconds`` is null without a click.
#: ``click_seconds`` run from the page to the document's first click; null without one, or where nobody says.
IMPRESSIONS = pa.schema(
    [
        _field("event_time", _TIME),
        _field("query_id", pa.string()),
        _field("session_id", pa.string()),
        _field("user_id", pa.string()),
        _field("locale", pa.string()),
        _field("query", pa.string()),
        _field("doc_id", pa.string()),
        _field("position", pa.int32()),
        _field("clicked", pa.bool_()),
        _field("dwell_seconds", pa.float64(), optional=True),
        _field("click_seconds", pa.float64(), optional=True),
        _field("negative_feedback", pa.bool_()),
        _field("score", pa.float64(), optional=True),
        _field("model_version", pa.string(), optional=True),
        _field("variant", pa.string(), optional=True),
    ]
)

#: A graded (query, locale, document). ``source`` is seed, human, panel (mined and judged), or shown (seen by users and
#: judged by the panel, see ``serm.judging``); ``agreement`` lies in 0..1. ``distribution``: the panel's belief in each
#: grade (sums to 1), of which ``grade`` is the most probable; null: the grade is taken as certain.
JUDGMENTS = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("grade", pa.int8()),
        _field("rationale", pa.string(), optional=True),
        _field("source", pa.string()),
        _field("cycle", pa.int32()),
        _field("panel_version", pa.string(), optional=True),
        _field("agreement", pa.float64(), optional=True),
        _field("distribution", pa.list_(pa.float64()), optional=True),
    ]
)

#: Pairs worth judging. ``agents`` says who chose the pair and why; ``score`` is the champion's expected grade.
MINED_PAIRS = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("agents", pa.list_(pa.struct([pa.field("agent", pa.string()), pa.field("reason", pa.string())]))),
        _field("score", pa.float64()),
        _field("uncertainty", pa.float64()),
        _field("disagreement", pa.float64()),
        _field("engagement", pa.float64()),
        _field("novelty", pa.float64()),
        _field("priority", pa.float64()),
    ]
)

#: What users of a window did with a pair, and what the click model makes of it. ``satisfied``: clicks of 30 seconds or
#: more; ``disliked``: impressions with negative feedback; ``examined``: the expected number of impressions that users
#: looked at, 0 to ``impressions``; ``dwells``: clicks whose dwell time is known; ``log_dwell``: the sum of its natural
#: logarithm in seconds; ``tested``: a test query asks the same, so that no model may learn of it. Attractiveness and
#: relevance (0..1) have standard errors (see ``serm.clicks``). ``settings``: the section clicks by which the model was
#: chosen and fitted, as JSON.
CLICK_ESTIMATES = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("impressions", pa.int64()),
        _field("clicks", pa.int64()),
        _field("satisfied", pa.int64()),
        _field("disliked", pa.int64()),
        _field("examined", pa.float64()),
        _field("dwells", pa.int64()),
        _field("log_dwell", pa.float64()),
        _field("tested", pa.bool_()),
        _field("attractiveness", pa.float64()),
        _field("standard_error", pa.float64()),
        _field("relevance", pa.float64()),
        _field("relevance_error", pa.float64()),
        _field("settings", pa.string()),
    ]
)

#: One judge's opinion on one pair: the grade distribution (sums to 1), the majority ``grade`` over its
#: sampled paths, and ``within_agreement``, the share of paths that gave that grade. Null grade: abstained.
#: ``evidence`` is what was retrieved for an LLM judge and shown to it; empty for judges that look for themselves.
VOTES = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("judge", pa.string()),
        _field("grade", pa.int8(), optional=True),
        _field("distribution", pa.list_(pa.float64(), len(Grade))),
        _field("within_agreement", pa.float64()),
        _field("rationale", pa.string()),
        _field("evidence", pa.list_(pa.struct([pa.field("source", pa.string()), pa.field("text", pa.string())]))),
    ]
)

#: A pair that the panel did not keep, for a person to judge: why, and what each judge said (null grade: abstained).
REVIEW = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("title", pa.string()),
        _field("reason", pa.string()),
        _field("priority", pa.float64()),
        _field(
            "votes",
            pa.list_(
                pa.struct(
                    [
                        pa.field("judge", pa.string()),
                        pa.field("grade", pa.int8()),
                        pa.field("within_agreement", pa.float64()),
                        pa.field("rationale", pa.string()),
                    ]
                )
            ),
        ),
        _field("cycle", pa.int32()),
        _field("panel_version", pa.string()),
    ]
)

#: What a judge may look up: ``text`` says something about each document whose attribute equals ``key``.
KNOWLEDGE = pa.schema([_field("key", pa.string()), _field("text", pa.string())])

#: A query measured on a test ``set`` (frozen, rolling) and its ``documents`` (served: what the first stage serves;
#: pool: a judged pool): champion's and challenger's value of ``measure`` (0 to 1) over all judged ``pairs`` of the
#: query, or only those that share a token, or none. The slices that the query belongs to: locale, family, traffic
#: (head, torso, tail, unseen), query_age and document_age (new, old).
PER_QUERY = pa.schema(
    [
        _field("set", pa.string()),
        _field("documents", pa.string()),
        _field("pairs", pa.string()),
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("family", pa.string()),
        _field("traffic", pa.string()),
        _field("query_age", pa.string()),
        _field("document_age", pa.string()),
        _field("measure", pa.string()),
        _field("champion", pa.float64()),
        _field("challenger", pa.float64()),
    ]
)

#: The first of a test query's ``documents`` (as in PER_QUERY) as ``model`` (champion, challenger) ranks them; ``rank``
#: counts from 1, ``score`` is the expected grade (0 to 3).
RANKINGS = pa.schema(
    [
        _field("set", pa.string()),
        _field("documents", pa.string()),
        _field("locale", pa.string()),
        _field("query", pa.string()),
        _field("model", pa.string()),
        _field("rank", pa.int32()),
        _field("doc_id", pa.string()),
        _field("title", pa.string()),
        _field("grade", pa.int8()),
        _field("score", pa.float64()),
    ]
)

#: What was drawn to be judged for the rolling test set in a cycle; ``served`` tells what users were served.
DRAWN = pa.schema(
    [
        _field("query", pa.string()),
        _field("locale", pa.string()),
        _field("doc_id", pa.string()),
        _field("served", pa.bool_()),
        _field("cycle", pa.int32()),
    ]
)

#: Rows that broke a rule: the row as JSON, and why.
QUARANTINE = pa.schema([_field("dataset", pa.string()), _field("reason", pa.string()), _field("row", pa.string())])

#: How many rows ``dataset`` (documents, impressions, judgments) had in a locale after a cycle's validation.
PROFILES = pa.schema(
    [
        _field("cycle", pa.int32()),
        _field("start", _TIME),
        _field("end", _TIME),
        _field("dataset", pa.string()),
        _field("locale", pa.string()),
        _field("rows", pa.int64()),
    ]
)

#: Whole users of a cycle's window, drawn by a hash: what later windows are compared with. Columns as in IMPRESSIONS.
SAMPLES = pa.schema(
    [
        _field("cycle", pa.int32()),
        *(
            IMPRESSIONS.field(name)
            for name in ("user_id", "query_id", "locale", "query", "position", "clicked", "score", "model_version")
        ),
    ]
)

#: Documents of a cycle's catalogue, drawn by a hash of ``doc_id``, so that two catalogues give the same ones.
CATALOGUES = pa.schema(
    [_field("cycle", pa.int32()), *(DOCUMENTS.field(name) for name in ("doc_id", "locale", "title"))]
)

#: Lines of a log's files that could not be read or broke the contract. ``line`` counts from 1; the text, which
#: may hold anything, stays in the file.
BAD_LINES = pa.schema([_field("file", pa.string()), _field("line", pa.int64()), _field("reason", pa.string())])


#: Optional columns that a contract got when datasets of it were there already: null in those.
_ADDED = {"click_seconds", "distribution"}


def write(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write ``table`` as the dataset ``path``, atomically; the same table gives the same bytes.

    Columns are put in the schema's order and cast to its types.

    Raises:
        UserError: a column is missing, has nulls where the schema has none, or does not cast.
    """
    table = conform(table, path, schema)
    with replace_directory(path) as beside:
        pq.write_table(table, beside / "part-0.parquet", compression="zstd")


def conform(table: pa.Table, path: Path, schema: pa.Schema) -> pa.Table:
    """Return ``table`` with exactly the columns and types of ``schema``; ``path`` names it in errors."""
    for name in added(schema) - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise UserError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; it has {', '.join(table.column_names)}."
        )
    return pa.table({field.name: _conform(table[field.name], path, field) for field in schema}, schema=schema)


def added(schema: pa.Schema) -> set[str]:
    """Return the columns of a contract that a dataset may lack, because it may be older than they are."""
    return {field.name for field in schema if field.nullable and field.name in _ADDED}


def _conform(column: pa.ChunkedArray, path: Path, field: pa.Field) -> pa.ChunkedArray:
    if not field.nullable and column.null_count:
        raise UserError(f"{path}: column {field.name!r} has nulls, which its contract forbids.")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{path}: column {field.name!r} is {column.type}; its contract says {field.type}: {error}"
        ) from error


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the whole dataset ``path`` (a directory of Parquet files, or one file) in the order of its files' names.

    Raises:
        UserError: there is no such dataset, a file is damaged, or it does not have the columns of ``schema``.
    """
    files = parquet.dataset(path, schema)
    parquet.require_columns(files, schema, parquet.optional_columns(files, schema) | added(schema))
    return pa.concat_tables([conform(parquet.read(file, schema), file.path, schema) for file in files])


def scan(engine: BaseBackend, path: Path, schema: pa.Schema) -> ibis.Table:
    """Open the dataset ``path`` as a lazy ibis table of ``engine`` (DuckDB or Spark), with the schema's types.

    Nulls are let through, for validation to quarantine.

    Raises:
        UserError: there is no such dataset, a file is damaged, or a column of ``schema`` is missing or of another kind.
    """
    files = parquet.dataset(path, schema)
    return parquet.scan(engine, files, schema, parquet.optional_columns(files, schema) | added(schema))


def other_types(path: Path, schema: pa.Schema) -> dict[str, tuple[str, str]]:
    """Return the columns of the dataset ``path`` that ``scan`` casts: name -> the type found, the contract's.

    Raises:
        UserError: there is no such dataset.
    """
    found = [item for file in parquet.dataset(path, schema) for item in file.types.items()]
    return {
        name: (str(kind), str(schema.field(name).type))
        for name, kind in found
        if not pa.types.is_nested(kind) and kind != schema.field(name).type
    }
