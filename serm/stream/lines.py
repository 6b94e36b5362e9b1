"""The lines of a log's text files as Arrow batches: bounded memory, and a reason for each line that cannot be read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: ``delivery`` numbers the files from 0, ``line`` the lines of a file from 1. ``text`` is null, and ``reason`` is
#: not, where a line could not be read.
LINES = pa.schema([("delivery", pa.int32()), ("line", pa.int64()), ("text", pa.string()), ("reason", pa.string())])
MAX_LINE_BYTES = 8 << 20
_CHUNK_BYTES = 4 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_NOT_UTF8 = "not UTF-8"
_TOO_LONG = f"longer than {MAX_LINE_BYTES >> 20} MB"


def read_lines(files: Sequence[Path]) -> pa.RecordBatchReader:
    """Return the lines of ``files``, plain or gzip (told by content), with the schema LINES; blank lines are left out.

    A line that is longer than ``MAX_LINE_BYTES``, is not UTF-8, or in which a gzip stream breaks off has a reason.
    """
    batches = (batch for delivery, file in enumerate(files) for batch in _file_lines(delivery, file))
    return pa.RecordBatchReader.from_batches(LINES, batches)


def _file_lines(delivery: int, file: Path) -> Iterator[pa.RecordBatch]:
    line = 1
    try:
        for block in _blocks(_chunks(file)):
            lines = _split(block)
            yield _batch(delivery, line, lines)
            line += len(lines)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip stream breaks off here ({error})"
        yield pa.record_batch([[delivery], [line], [None], [reason]], schema=LINES)


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as raw:
        packed = raw.peek(2).startswith(_GZIP_MAGIC)
        # read1: what was unpacked before a stream breaks off is still handed over.
        source = gzip.GzipFile(fileobj=raw) if packed else raw
        while chunk := source.read1(_CHUNK_BYTES):
            yield chunk


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut ``chunks`` at line ends; of a line that is too long only the start is held."""
    pending = b""
    for chunk in chunks:
        if len(pending) > MAX_LINE_BYTES:
            end = chunk.find(b"\n")
            chunk = chunk[end:] if end >= 0 else b""
        head, newline, pending = (pending + chunk).rpartition(b"\n")
        if newline:
            yield head
    if pending:
        yield pending


def _split(block: bytes) -> pa.Array:
    """The lines of ``block`` as a binary array over the same bytes: no Python object a line."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends, [len(block)]]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def _batch(delivery: int, line: int, lines: pa.Array) -> pa.RecordBatch:
    reason = np.full(len(lines), None, dtype=object)
    reason[_not_utf8(lines)] = _NOT_UTF8
    reason[pc.binary_length(lines).to_numpy() > MAX_LINE_BYTES] = _TOO_LONG
    reasons = pa.array(reason, pa.string())
    readable = pc.if_else(pc.is_null(reasons), lines, None).cast(pa.string())
    batch = pa.record_batch(
        [
            pa.array(np.full(len(lines), delivery, np.int32)),
            pa.array(np.arange(line, line + len(lines))),
            pc.utf8_trim(readable, " \t\r\n\ufeff"),
            reasons,
        ],
        schema=LINES,
    )
    return batch.filter(pc.fill_null(pc.not_equal(batch["text"], ""), True))


def _not_utf8(lines: pa.Array, start: int = 0) -> list[int]:
    """Indexes of the lines that are not UTF-8: halves until the bad ones stand alone."""
    try:
        lines.cast(pa.string())
    except pa.ArrowInvalid:
        if len(lines) == 1:
            return [start]
        half = len(lines) // 2
        return _not_utf8(lines[:half], start) + _not_utf8(lines[half:], start + half)
    return []
