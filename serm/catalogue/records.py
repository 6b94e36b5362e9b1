"""The documents of a catalogue's files as they stand there, whatever the format: JSON texts in Arrow batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serm.catalogue.files import CatalogueFile, Form
from serm.catalogue.json_array import elements
from serm.catalogue.table import Record, rows
from serm.errors import UserError
from serm.lines import LINES, BrokenOff, file_lines
from serm.parquet import undamaged

#: As in LINES, but ``line`` is a record's number where the file is a JSON array or Parquet, and ``action`` is the line
#: of an OpenSearch bulk file that stands before the document.
RECORDS = pa.schema([*LINES, ("action", pa.string())])
_ACTION = r'^\{\s*"(index|create|update|delete)"\s*:\s*\{[^{}]*\}\s*\}$'
_DELETE = r'^\{\s*"delete"'
_BATCH_ROWS, _BATCH_BYTES = 2048, 4 << 20
_NO_DOCUMENT = "a bulk action that no document follows"


def read_records(files: Iterable[CatalogueFile]) -> Iterator[pa.RecordBatch]:
    """Yield the records of ``files`` as RECORDS, file after file.

    Raises:
        UserError: a file is damaged, so that what comes after the damage is not known.
    """
    for delivery, file in enumerate(files):
        yield from _batches(delivery, file)


def sample(files: Iterable[CatalogueFile], rows: int) -> pa.Table:
    """Return up to ``rows`` of the first records of each file."""
    taken = []
    for delivery, file in enumerate(files):
        left = rows
        for batch in _batches(delivery, file):
            taken.append(batch.slice(0, left))
            left -= min(left, batch.num_rows)
            if not left:
                break
    return pa.Table.from_batches(taken, RECORDS)


def _batches(delivery: int, file: CatalogueFile) -> Iterator[pa.RecordBatch]:
    try:
        match file.form:
            case Form.LINES:
                yield from _of_lines(delivery, file)
            case Form.ARRAY:
                yield from _batched(delivery, elements(file.path))
            case Form.TABLE:
                yield from _batched(delivery, rows(file.path, file.separator))
            case Form.PARQUET:
                yield from _of_parquet(delivery, file)
    except BrokenOff as error:
        raise UserError(f"{file.path}: {error}; bring an undamaged copy.") from error


def _of_lines(delivery: int, file: CatalogueFile) -> Iterator[pa.RecordBatch]:
    """Each line beside the action line before it; actions that no document follows have a reason."""
    held: pa.RecordBatch | None = None  # an action at the end of a batch
    for batch in file_lines(delivery, file.path):
        batch = pa.concat_batches([held, batch]) if held is not None else batch
        ends = batch.num_rows and _matches(batch["text"].slice(batch.num_rows - 1), _ACTION)[0].as_py()
        held = batch.slice(batch.num_rows - 1) if ends else None
        yield _beside_actions(batch.slice(0, batch.num_rows - bool(ends)))
    if held is not None:
        yield _beside_actions(held)


def _beside_actions(batch: pa.RecordBatch) -> pa.RecordBatch:
    text, none = batch["text"], pa.nulls(min(1, batch.num_rows), pa.string())
    previous = pa.concat_arrays([none, text]).slice(0, batch.num_rows)
    action, delete = _matches(text, _ACTION), _matches(text, _DELETE)
    follows = pc.and_(_matches(previous, _ACTION), pc.invert(pc.or_(_matches(previous, _DELETE), action)))
    followed = pc.and_not(pc.invert(_matches(pa.concat_arrays([text, none]).slice(1), _ACTION)), delete)
    if batch.num_rows:  # the last one of a batch is an action only at a file's end
        followed = pa.concat_arrays([followed.slice(0, batch.num_rows - 1), pa.array([False])])
    told = pc.if_else(delete, "it deletes a document; name its id in a file for --gone", _NO_DOCUMENT)
    reason = pc.coalesce(batch["reason"], pc.if_else(action, told, None))
    columns = [batch["delivery"], batch["line"], text, reason, pc.if_else(follows, previous, None)]
    return pa.record_batch(columns, schema=RECORDS).filter(pc.invert(pc.and_(action, followed)))


def _matches(text: pa.Array, pattern: str) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(text, pattern), False)


def _of_parquet(delivery: int, file: CatalogueFile) -> Iterator[pa.RecordBatch]:
    """Rows as JSON objects, made by DuckDB."""
    import duckdb

    with undamaged(file.path), pa.OSFile(str(file.path)) as source, duckdb.connect(config={"threads": 1}) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        stored = pq.ParquetFile(source, coerce_int96_timestamp_unit="us")
        names = [name for name in stored.schema_arrow.names if not name.startswith("__index_level_")]  # pandas'
        if len({name.lower() for name in names}) < len(names):
            raise UserError(f"{file.path}: two of its columns differ in nothing but case; rename one.")
        row = 1
        for batch in stored.iter_batches(_BATCH_ROWS, columns=names):
            engine.register("batch", pa.table(batch))
            try:
                texts = engine.sql("SELECT to_json(batch)::VARCHAR AS text FROM batch").to_arrow_table()["text"]
            except duckdb.Error as error:
                reason = str(error).splitlines()[0][:200]
                raise UserError(f"{file.path}: a column of it is of a type that is not read ({reason}).") from error
            yield _made(delivery, range(row, row + batch.num_rows), texts.combine_chunks(), None)
            row += batch.num_rows


def _batched(delivery: int, records: Iterator[Record]) -> Iterator[pa.RecordBatch]:
    """Bounded by rows and by bytes."""
    held: list[Record] = []
    size = 0
    for record in records:
        held.append(record)
        size += len(record[1] or "")
        if len(held) == _BATCH_ROWS or size > _BATCH_BYTES:
            yield _made(delivery, *zip(*held, strict=True))
            held, size = [], 0
    if held:
        yield _made(delivery, *zip(*held, strict=True))


def _made(delivery: int, lines: Iterable[int], texts: Any, reasons: Any) -> pa.RecordBatch:
    line = pa.array(lines, pa.int64())
    none = pa.nulls(len(line), pa.string())
    text = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    reason = none if reasons is None else pa.array(reasons, pa.string())
    return pa.record_batch([pa.repeat(pa.scalar(delivery, pa.int32()), len(line)), line, text, reason, none], RECORDS)
