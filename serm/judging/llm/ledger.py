"""Every call to an LLM judge and every answer, on disk the moment it is there (SQLite, WAL).

A call is written before it is sent, at the price it can cost at most, and again when it is over. So a run that was
killed pays for no finished call twice, and counts what it had in flight as spent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.judging.llm.budget import NANO
from serm.judging.llm.reply import Reply

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, batch TEXT NOT NULL, judge TEXT NOT NULL, key TEXT NOT NULL, started REAL NOT NULL,
    finished REAL, status TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER, cost INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_of_batch ON calls (batch);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, content TEXT NOT NULL, tokens TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS problems (key TEXT PRIMARY KEY, problem TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opinions (
    judge TEXT NOT NULL, pair TEXT NOT NULL, batch TEXT NOT NULL, grade INTEGER NOT NULL, PRIMARY KEY (judge, pair)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lookups (source TEXT NOT NULL, key TEXT NOT NULL, found TEXT NOT NULL,
    PRIMARY KEY (source, key)) WITHOUT ROWID;
"""
_SENT = "status NOT LIKE 'unsent%'"
_START = "INSERT INTO calls (id, batch, judge, key, started, status, cost) VALUES (?, ?, ?, ?, ?, 'sent', ?)"
_FINISH = "UPDATE calls SET finished = ?, status = ?, input_tokens = ?, output_tokens = ?, cost = ? WHERE id = ?"
_ANSWER = "INSERT OR IGNORE INTO answers (key, content, tokens) VALUES (?, ?, ?)"
_PROBLEM = "INSERT OR IGNORE INTO problems (key, problem) VALUES (?, ?)"
_Statement = tuple[str, tuple[Any, ...]]


class Ledger:
    """The store of one workspace; one run at a time. Writes are grouped, and each returns once it is on disk."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            UserError: another run holds it, or it is not a ledger.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_name(path.name + ".lock").open("w")
        except OSError as error:
            raise UserError(f"{path}: no ledger can be kept there ({error}); set judging.ledger.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UserError(f"{path}: another serm annotate is using it; wait for it to end.") from error
        try:
            self._reader = _connect(path)
            self._reader.executescript(_TABLES)
            writer = _connect(path)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise UserError(f"{path}: not a ledger of SERM ({error}); give another path in judging.ledger.") from error
        self._last: int = self._read("SELECT coalesce(max(id), 0) FROM calls")[0][0]
        self._waiting: queue.SimpleQueue[tuple[list[_Statement], asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, args=(writer,), name="ledger", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Finish all writes and let go of the file."""
        self._waiting.put(None)
        self._writer.join()
        self._reader.close()
        self._lock.close()

    def spent(self, batch: str) -> tuple[int, int]:
        """Return what the calls of ``batch`` cost so far (billionths), and how many were sent."""
        sums = f"coalesce(sum(cost), 0), coalesce(sum({_SENT}), 0)"
        ((cost, calls),) = self._read(f"SELECT {sums} FROM calls WHERE batch = ?", batch)
        return int(cost), int(calls)

    def summary(self, batch: str) -> dict[str, dict[str, float]]:
        """Return calls, answers, tokens and cost by judge, over all runs of ``batch``."""
        rows = self._read(
            f"SELECT judge, sum({_SENT}), sum(status = 'answered'), coalesce(sum(input_tokens), 0),"
            " coalesce(sum(output_tokens), 0), sum(cost) FROM calls WHERE batch = ? GROUP BY judge ORDER BY judge",
            batch,
        )
        names = ("calls", "answered", "input_tokens", "output_tokens")
        return {judge: dict(zip(names, row, strict=True)) | {"cost": cost / NANO} for judge, *row, cost in rows}

    def answer(self, key: str) -> Reply | None:
        """Return the answer to an earlier call with the same key."""
        rows = self._read(
            "SELECT content, tokens, problem FROM answers LEFT JOIN problems USING (key) WHERE key = ?", key
        )
        for content, tokens, problem in rows:
            return Reply(content, None if tokens is None else json.loads(tokens), problem=problem or "")
        return None

    def start(self, batch: str, judge: str, key: str, most: int) -> tuple[int, asyncio.Future[None]]:
        """Note a call that may cost ``most`` billionths; return its number, and what to await before it is sent."""
        self._last += 1
        return self._last, self._commit([(_START, (self._last, batch, judge, key, time.time(), most))])

    def finish(self, call: int, key: str, status: str, reply: Reply | None, cost: int) -> asyncio.Future[None]:
        """Note how a call ended, with its answer if there is one; await what is returned to know it on disk."""
        tokens = (reply.input_tokens, reply.output_tokens) if reply else (None, None)
        statements: list[_Statement] = [(_FINISH, (time.time(), status, *tokens, cost, call))]
        if reply:
            of_tokens = None if reply.of_tokens is None else json.dumps(reply.of_tokens)
            statements.append((_ANSWER, (key, reply.content, of_tokens)))
            if reply.problem:
                statements.append((_PROBLEM, (key, reply.problem)))
        return self._commit(statements)

    def earlier_grades(self, judge: str, batch: str) -> dict[str, int]:
        """Return the grades that ``judge`` gave in batches other than ``batch``, by pair."""
        return dict(self._read("SELECT pair, grade FROM opinions WHERE judge = ? AND batch != ?", judge, batch))

    async def remember(self, judge: str, batch: str, grades: Iterable[tuple[str, int]]) -> None:
        """Keep a judge's grades, by pair, for later batches; a pair's first batch stays."""
        statement = "INSERT OR IGNORE INTO opinions (judge, pair, batch, grade) VALUES (?, ?, ?, ?)"
        await self._commit([(statement, (judge, pair, batch, grade)) for pair, grade in grades])

    def found(self, source: str, key: str) -> list[str] | None:
        """Return what a look-up found earlier."""
        rows = self._read("SELECT found FROM lookups WHERE source = ? AND key = ?", source, key)
        return json.loads(rows[0][0]) if rows else None

    async def keep(self, source: str, key: str, found: list[str]) -> None:
        """Keep what a look-up found."""
        statement = "INSERT OR IGNORE INTO lookups (source, key, found) VALUES (?, ?, ?)"
        await self._commit([(statement, (source, key, json.dumps(found)))])

    def _read(self, query: str, *values: str) -> list[Any]:
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: the ledger cannot be read ({error}); mend it or move it away.") from error

    def _commit(self, statements: list[_Statement]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._waiting.put((statements, done))
        return done

    def _write(self, connection: sqlite3.Connection) -> None:
        """Write what is waiting, all of it in one transaction: one fsync serves every call that ended meanwhile.

        Whatever goes wrong is told to all who wait, and ends the run: a writer that died would leave them waiting.
        """
        open_ = True
        while open_:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            work = [one for one in group if one is not None]
            open_ = len(work) == len(group)
            failure: UserError | None = None
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statements, _ in work:
                    for statement, values in statements:
                        connection.execute(statement, values)
                connection.execute("COMMIT")
            except Exception as error:
                said = f"{self._path}: the ledger cannot be written ({type(error).__name__}: {error})"
                failure = UserError(f"{said}; mend that and annotate again: what was answered is kept.")
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            for _, done in work:
                with contextlib.suppress(RuntimeError):  # a run that failed has closed its loop, and waits no more
                    done.get_loop().call_soon_threadsafe(_resolve, done, failure)
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _resolve(done: asyncio.Future[None], failure: UserError | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)
        done.exception()  # calls that were cut do not wait for it: that is no fault of theirs
