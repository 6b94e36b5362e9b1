"""Text files as chunks and as batches of lines: bounded memory, and a reason for each line that cannot be read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: ``delivery`` numbers the files from 0, ``line`` the lines of a file from 1. ``text`` is null, and ``reason`` is
#: not, where a line could not be read.
LINES = pa.schema([("delivery", pa.int32()), ("line", pa.int64()), ("text", pa.string()), ("reason", pa.string())])
MAX_LINE_BYTES = 8 << 20
_CHUNK_BYTES = 4 << 20
_PIECE_BYTES = 64 << 10
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BREAKS_OFF = "stream breaks off here"
"""What the reason of the last line of a packed file says that is not whole."""
_NOT_UTF8 = "not UTF-8"
_TOO_LONG = f"longer than {MAX_LINE_BYTES >> 20} MB"


class BrokenOff(Exception):
    """A compressed stream breaks off, or is damaged; the message says which and how."""

    line = 0
    """Where, as far as lines are counted."""


def read_lines(files: Sequence[Path]) -> pa.RecordBatchReader:
    """Return the lines of ``files``, plain, gzip or zstd (told by content), as LINES; blank lines are left out.

    White space around a line is trimmed. A line that is longer than ``MAX_LINE_BYTES``, is not UTF-8, or in which a
    compressed stream breaks off has a reason.
    """
    batches = (batch for delivery, file in enumerate(files) for batch in _told_lines(delivery, file))
    return pa.RecordBatchReader.from_batches(LINES, batches)


def _told_lines(delivery: int, file: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from file_lines(delivery, file)
    except BrokenOff as error:
        yield pa.record_batch([[delivery], [error.line], [None], [str(error)]], schema=LINES)


def file_lines(delivery: int, file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the lines of one file as ``read_lines`` does.

    Raises:
        BrokenOff: a compressed stream does, after the lines before it were yielded.
    """
    line = 1
    try:
        for lines in raw_lines(file):
            yield _trimmed(delivery, line, lines)
            line += len(lines)
    except BrokenOff as error:
        error.line = line
        raise


def raw_lines(file: Path) -> Iterator[pa.Array]:
    """Yield the lines of ``file`` as they stand, as binary arrays; of one longer than MAX_LINE_BYTES only a start.

    Raises:
        BrokenOff: a compressed stream does, after the lines before it were yielded.
    """
    yield from map(_split, _blocks(chunks(file)))


def chunks(file: Path) -> Iterator[bytes]:
    """Yield the bytes of ``file``, unpacked where it is gzip or zstd; what comes before a break is handed over.

    Raises:
        BrokenOff: a compressed stream does.
    """
    with file.open("rb") as raw:
        magic = raw.peek(4)
        if magic.startswith(_ZSTD_MAGIC):
            yield from _unzstd(raw)
            return
        # read1: what was unpacked before a stream breaks off is still handed over.
        source = gzip.GzipFile(fileobj=raw) if magic.startswith(_GZIP_MAGIC) else raw
        try:
            while chunk := source.read1(_CHUNK_BYTES):
                yield chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BrokenOff(f"the gzip {BREAKS_OFF} ({error})") from error


def _unzstd(raw: BinaryIO) -> Iterator[bytes]:
    """Arrow drops what it unpacked in the read that fails: small reads, so that little is."""
    with pa.CompressedInputStream(raw, "zstd") as source:
        pieces: list[bytes] = []
        try:
            while piece := source.read(_PIECE_BYTES):
                pieces.append(piece)
                if len(pieces) * _PIECE_BYTES >= _CHUNK_BYTES:
                    yield b"".join(pieces)
                    pieces.clear()
        except (OSError, pa.ArrowException) as error:
            if pieces:
                yield b"".join(pieces)
            raise BrokenOff(f"the zstd {BREAKS_OFF} ({str(error).splitlines()[0]})") from error
        if pieces:
            yield b"".join(pieces)


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


def _trimmed(delivery: int, line: int, lines: pa.Array) -> pa.RecordBatch:
    readable, reasons = readable_lines(lines)
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


def readable_lines(lines: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the texts of ``lines``, null where one cannot be read, and the reasons, null where it can."""
    reason = np.full(len(lines), None, dtype=object)
    reason[_not_utf8(lines)] = _NOT_UTF8
    reason[pc.binary_length(lines).to_numpy() > MAX_LINE_BYTES] = _TOO_LONG
    reasons = pa.array(reason, pa.string())
    return pc.if_else(pc.is_null(reasons), lines, None).cast(pa.string()), reasons


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
