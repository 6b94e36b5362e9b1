"""The log of what was served: JSON lines in files that appear whole, written beside the answering and never before it.

A record waits in a bounded queue for a thread that writes it. Where the queue is full, or the disk, the record is lost;
it is counted and said, and the request is answered all the same. The file that is being written begins with a dot, so
that nobody reads it; once it is old or large enough it gets its name. The next process finishes what a killed one left.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import queue
import re
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import Counter, Gauge

from serm.errors import os_fault
from serm.serving.transformer.waiting import Waiting
from serm.settings.serving import TransformerSettings

_LOG = logging.getLogger(__name__)
_RECORDS = Counter("serm_query_log_records", "Records of the query log: written, or lost and why", ["outcome"])
_WAITING = Gauge("serm_query_log_waiting", "Records of the query log that wait to be written")
_TAKE = 1000
"""Records in one write, at most."""
_SAY_SECONDS = 60.0
"""How often a loss is told in the process's own log."""
_UNFINISHED = re.compile(r"\.served-.+\.jsonl\.unfinished")
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60] or "host"


class QueryLog:
    """Appends records to files of a directory, in a thread of its own."""

    def __init__(self, folder: Path, settings: TransformerSettings) -> None:
        """Write to ``folder``, and finish what killed processes left there.

        Raises:
            UserError: it cannot be written to.
        """
        self._folder = folder
        self._rotate_bytes = settings.log_rotate_mb * 1_000_000
        self._rotate_seconds = settings.log_rotate_seconds
        self._waiting = Waiting[bytes](settings.log_queue_mb * 1_000_000)
        self._numbers = itertools.count()
        self._file: int | None = None
        self._path = folder
        self._size = self._records = 0
        self._begun = 0.0
        self._stopping = threading.Event()
        self.written = 0
        self.lost = 0
        """Records that are in no file and never will be."""
        self._told = float("-inf")
        self._losing = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in sorted(folder.iterdir()):
                if _UNFINISHED.fullmatch(left.name):
                    self._finish_left(left)
            self._open()
        except OSError as error:
            raise os_fault(error, folder) or error from error
        _WAITING.set_function(self._waiting.__len__)
        self._thread = threading.Thread(target=self._write_all, name="query-log")
        self._thread.start()

    def add(self, record: dict[str, Any]) -> bool:
        """Take a record, and say whether it was; never waits."""
        line = orjson.dumps(record) + b"\n"
        if taken := self._waiting.put(line, len(line)):
            return taken
        self._lose(1, "queue full", "the queue is full: raise serving.transformer.log_queue_mb, or give a faster disk")
        return False

    def close(self) -> None:
        """Write what waits and give the file its name; to be called when nothing is added any more."""
        self._stopping.set()
        self._thread.join()

    def _write_all(self) -> None:
        while self._waiting or not self._stopping.is_set():
            if records := self._take():
                self._append(records)
            if self._size >= self._rotate_bytes or (
                self._size and time.monotonic() >= self._begun + self._rotate_seconds
            ):
                self._rotate()
        self._rotate()

    def _take(self) -> list[bytes]:
        """Return the lines that wait; wait for the first one, but not for long, so that time is looked at too."""
        records = []
        with suppress(queue.Empty):
            records.append(self._waiting.get(min(0.05, self._rotate_seconds)))
            while len(records) < _TAKE:
                records.append(self._waiting.get(0))
        return records

    def _append(self, records: list[bytes]) -> None:
        data = b"".join(records)
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            sent = 0
            while sent < len(data):
                sent += os.write(self._file, data[sent:])
        except OSError as error:
            if self._file is not None:  # take back what stands there of them, so that no line is cut off
                with suppress(OSError):
                    os.ftruncate(self._file, self._size)
                    os.lseek(self._file, self._size, os.SEEK_SET)
            self._lose(len(records), "not written", f"{self._path}: {error.strerror or error}")
            return
        if not self._size:
            self._begun = time.monotonic()
        self._size += len(data)
        self._records += len(records)
        self.written += len(records)
        _RECORDS.labels("written").inc(len(records))

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f".served-{_HOST}-{os.getpid()}-{next(self._numbers)}.jsonl.unfinished"
        self._size = self._records = 0
        while True:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(self._path, file):
                self._file = file
                return
            os.close(file)  # another process, which starts just now, took it for one that was left

    def _rotate(self) -> None:
        """Give the file its name, and begin another with the next record."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            _finish(self._path, file, self._size)
        except OSError as error:
            if _is_at(self._path, file):
                # Its records stay in the unfinished file, which the next process finishes.
                _LOG.error("serm: %s: %s; the next start finishes it.", self._path, error.strerror or error)
            else:
                self.written -= self._records
                self._lose(self._records, "taken away", f"{self._path}: somebody took it away")
        finally:
            os.close(file)
            self._size = 0

    def _finish_left(self, path: Path) -> None:
        """Finish the file of a process that was killed, without a last line that was cut off."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another process finished it
            return
        try:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(path, file):
                    return
                whole = path.read_bytes().rfind(b"\n") + 1
                if cut := os.fstat(file).st_size - whole:
                    self._lose(
                        1, "cut off", f"{path}: its process was killed in a record, of which {cut} bytes were left"
                    )
                os.ftruncate(file, whole)
                _finish(path, file, whole)
        finally:
            os.close(file)

    def _lose(self, records: int, outcome: str, why: str) -> None:
        _RECORDS.labels(outcome).inc(records)
        with self._losing:
            self.lost += records
            now = time.monotonic()
            if now >= self._told + _SAY_SECONDS:
                self._told = now
                _LOG.error("serm: %d records of the query log are lost so far (%s).", self.lost, why)


def _is_at(path: Path, file: int) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _finish(path: Path, file: int, size: int) -> None:
    """Give a file its name, which tells when it was finished: readers take files in the order of their names."""
    if not size:
        path.unlink(missing_ok=True)
        return
    os.fsync(file)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path.rename(path.with_name(f"served-{now}-{path.name.removeprefix('.served-').removesuffix('.unfinished')}"))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
