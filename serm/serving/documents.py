"""The texts of a catalogue's documents in one file, so that a request names them by their ids.

An SQLite file: read in place, as much of it in memory as is asked for, by any number of processes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from serm import contracts
from serm.errors import UserError
from serm.relevance.interface import MAX_CHARACTERS, document_text, readable
from serm.serving.stores import opened, writing
from serm.step import Figures

_APPLICATION = 0x5345524D
"""SQLite's application_id of such a file: SERM in ASCII."""
_CHUNK = 50_000


def write(documents: Path, out: Path) -> Figures:
    """Write the document store ``out`` of the dataset ``documents`` (DOCUMENTS), atomically.

    A text is what a model reads of a document: its title, then its body, cut to 32,768 characters.

    Returns:
        Figures: documents, and the file's megabytes.

    Raises:
        UserError: there is no such dataset, two of its documents have one id, or the file cannot be written.
    """
    with writing(out, _APPLICATION) as file:
        file.execute("CREATE TABLE documents (doc_id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")
        try:
            for part in batches(documents, _CHUNK):
                file.executemany("INSERT INTO documents VALUES (?, ?)", texts(part))
        except sqlite3.IntegrityError as error:
            raise UserError(
                f"{documents}: two documents have one doc_id ({error}); take cycle/validate/documents, where each is "
                "once."
            ) from error
        (rows,) = file.execute("SELECT count(*) FROM documents").fetchone()
    return {"documents": rows, "megabytes": round(out.stat().st_size / 1e6, 1)}


def batches(documents: Path, most: int) -> list[pa.RecordBatch]:
    """Return the dataset ``documents`` (DOCUMENTS) in the order of ids, in batches of at most so many for ``texts``."""
    table = contracts.read(documents, contracts.DOCUMENTS).select(["doc_id", "title", "body"]).sort_by("doc_id")
    return list(table.to_batches(max_chunksize=most))


def texts(batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each document: its title, then its body, cut to what any model reads."""
    for doc_id, title, body in zip(*(batch[name].to_pylist() for name in batch.schema.names), strict=True):
        yield doc_id, readable(document_text(title, body), MAX_CHARACTERS)


class DocumentStore:
    """An open document store; one thread at a time may ask it."""

    def __init__(self, path: Path) -> None:
        """Open the file ``path``.

        Raises:
            UserError: it is no document store.
        """
        self._file = opened(path, _APPLICATION, "SELECT doc_id, text FROM documents", "document")

    def texts(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the texts of those of ``ids`` that it has."""
        asked = "SELECT doc_id, text FROM documents WHERE doc_id IN (SELECT value FROM json_each(?))"
        return dict(self._file.execute(asked, (json.dumps(list(ids)),)))

    def texts_after(self, doc_id: str, most: int) -> Mapping[str, str]:
        """Return the texts of the first ``most`` documents behind ``doc_id`` in the order of ids; "" begins."""
        asked = "SELECT doc_id, text FROM documents WHERE doc_id > ? ORDER BY doc_id LIMIT ?"
        return dict(self._file.execute(asked, (doc_id, most)))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def mark(file: Path) -> tuple[int, ...]:
    """Return what differs once a file is another, also where a link of its path leads to another."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
