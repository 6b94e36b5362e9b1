"""What a model's lower layers make of a catalogue's documents, in one file: a server then computes none of them.

An SQLite file as the document store is, mapped from disk by any number of processes. A row is a text's vector and its
states, under the hash of the text, so that a document whose text has changed is not in it and is computed as it comes.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from serm import relevance
from serm.errors import UserError, os_fault
from serm.relevance.interface import Servable
from serm.relevance.known import Key, KnownText, KnownTexts, key_of
from serm.serving.documents import batches, mark, texts
from serm.step import Figures

_APPLICATION = 0x53455253
"""SQLite's application_id of such a file: SERS in ASCII."""
_FORMAT = 1
_AT_ONCE = 256
"""Documents that are computed, and kept against a crash, at a time."""
_LOG = logging.getLogger(__name__)


def write(documents: Path, model: Path | str, out: Path) -> Figures:
    """Write what ``model`` makes of the dataset ``documents`` (DOCUMENTS) before it meets a query, to the file ``out``.

    What ``out`` holds of the same texts for the same frozen layers is taken over, and a call that was ended goes on
    where it stopped: each part is kept in a file beside ``out`` until all are there.

    Args:
        documents: such as cycle/validate/documents.
        model: a trained cross-encoder or an export, as ``serm.relevance.location`` says.
        out: replaced in one step.

    Returns:
        Figures: documents, texts (documents of one text share it), computed in this call, and the file's megabytes.

    Raises:
        UserError: there is no such dataset or model, the model reads no text alone (a generative one), another call
            writes the same file, or the disk is full.
    """
    computing = relevance.load_scorer(model)
    if not computing.frozen:
        raise UserError(f"{model}: a generative model reads a document only with its query; take a cross-encoder.")
    beside = out.with_name(f".{out.name}.part")
    _begin(beside, out, computing.frozen)
    computed = 0
    parts = batches(documents, _AT_ONCE)
    with _told(out), closing(sqlite3.connect(beside, timeout=1, isolation_level=None)) as file:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("CREATE TEMP TABLE wanted (key BLOB PRIMARY KEY) WITHOUT ROWID")
        for part in track(parts, "states", console=Console(stderr=True), transient=True, disable=len(parts) < 2):
            computed += _add(file, computing, [text for _, text in texts(part)])
        file.execute("BEGIN IMMEDIATE")
        file.execute("DELETE FROM texts WHERE key NOT IN (SELECT key FROM wanted)")
        (kept,) = file.execute("SELECT count(*) FROM texts").fetchone()
        file.execute("COMMIT")
        file.execute("VACUUM")
    with _told(out):
        beside.replace(out)
    megabytes = round(out.stat().st_size / 1e6, 1)
    return {"documents": sum(map(len, parts)), "texts": kept, "computed": computed, "megabytes": megabytes}


def _begin(beside: Path, out: Path, frozen: str) -> None:
    """Leave at ``beside`` a file to go on with: its own of before, a copy of ``out``, or an empty one."""
    if _frozen_of(beside) == frozen:
        return
    with _told(out):
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        if _frozen_of(out) == frozen:
            shutil.copyfile(out, beside)
            return
        with closing(sqlite3.connect(beside)) as file:
            file.execute(f"PRAGMA application_id = {_APPLICATION}")
            file.execute(f"PRAGMA user_version = {_FORMAT}")
            file.execute("CREATE TABLE about (frozen TEXT NOT NULL)")
            file.execute("CREATE TABLE texts (key BLOB PRIMARY KEY, cut INTEGER, dim INTEGER, crc INTEGER, data BLOB)")
            file.execute("INSERT INTO about VALUES (?)", (frozen,))
            file.commit()


def _frozen_of(path: Path) -> str | None:
    """Return whose texts the file holds; None where it is no such file."""
    if not path.is_file():
        return None
    try:
        store = StateStore(path)
    except UserError:
        return None
    store.close()
    return store.frozen


def _add(file: sqlite3.Connection, model: Servable, documents: list[str]) -> int:
    """Compute those of the documents that the file lacks, and return how many."""
    keys = {key_of("passage", text): text for text in documents}
    file.execute("BEGIN IMMEDIATE")
    file.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", [(key,) for key in keys])
    known = {key for key in keys if file.execute("SELECT 1 FROM texts WHERE key = ?", (key,)).fetchone()}
    new = [key for key in keys if key not in known]
    model.known = KnownTexts(2**62)
    model.prepare([keys[key] for key in new])
    for key in new:
        one = model.known.peek((model.frozen, key))
        assert one is not None
        vector, states = np.asarray(one.vector, np.float32), np.asarray(one.states, np.float16)
        data = vector.tobytes() + states.tobytes()
        row = key, one.cut, len(vector), zlib.crc32(data), data
        file.execute("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", row)
    file.execute("COMMIT")
    return len(new)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Turn what a disk or another writer does into one sentence about ``out``."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UserError(f"{out}: another serm export is writing it; wait for its end.") from error
        raise UserError(f"{out}: cannot be written ({error}); make room on the disk and run it again.") from error
    except OSError as error:
        raise os_fault(error, out) or error from error


class StateStore:
    """An open file of ``write``; once another stands in its place, that one is read. Any thread may ask."""

    def __init__(self, path: Path) -> None:
        """Open the file ``path``.

        Raises:
            UserError: it is none that ``write`` wrote.
        """
        self.path = path
        self.frozen = ""
        """Whose texts these are: ``Servable.frozen``."""
        self._open()

    def _open(self) -> None:
        self._mark = mark(self.path)
        try:
            file = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            (application,) = file.execute("PRAGMA application_id").fetchone()
            (found,) = file.execute("PRAGMA user_version").fetchone()
            if (application, found) == (_APPLICATION, _FORMAT):
                (frozen,) = file.execute("SELECT frozen FROM about").fetchone()
                file.execute("SELECT cut, dim, crc, data FROM texts LIMIT 0")
        except (sqlite3.Error, TypeError) as error:
            raise UserError(f"{self.path}: no store of states ({error}); {_WRITE}") from error
        if (application, found) != (_APPLICATION, _FORMAT):
            raise UserError(f"{self.path}: no store of states of this version; {_WRITE}")
        file.execute(f"PRAGMA mmap_size = {2**40}")
        self._file, self.frozen = file, str(frozen)

    def get(self, key: Key) -> KnownText | None:
        """Return what the file holds of the text: vector [dim] fp32 and states [tokens, dim] fp16, as numpy's arrays.

        None where it holds nothing of it, or not what was written.
        """
        if mark(self.path) not in (self._mark, ()):
            self._open_again()
        frozen, text = key
        if frozen != self.frozen:
            return None
        try:
            row = self._file.execute("SELECT cut, dim, crc, data FROM texts WHERE key = ?", (text,)).fetchone()
        except sqlite3.Error as error:
            _LOG.error("%s: cannot be read (%s); its documents are computed again", self.path, error)
            return None
        return None if row is None else _read(*row)

    def _open_again(self) -> None:
        try:
            self._open()  # the one before is closed when the last thread that asks it is done
        except UserError as error:
            _LOG.error("The states stay as they were: %s", error)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


_WRITE = "write one with serm export --documents CATALOGUE --states."


def _read(cut: object, dim: object, crc: object, data: object) -> KnownText | None:
    """Return the text of a row; None where its bytes are not those that were written."""
    if not (isinstance(data, bytes) and isinstance(dim, int) and dim > 0 and zlib.crc32(data) == crc):
        return None
    vector, states = 4 * dim, len(data) - 4 * dim
    if states <= 0 or states % (2 * dim):
        return None
    own = bytearray(data)  # torch wants memory of its own
    found = np.frombuffer(own, np.float16, offset=vector).reshape(-1, dim)
    return KnownText(np.frombuffer(own, np.float32, dim), found, bool(cut))
