"""A log, whatever its format, as rows of impressions that say which delivery (file) they came with."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow.parquet as pq
from ibis.backends import BaseBackend

from serm import engine as engines
from serm import parquet
from serm.contracts import IMPRESSIONS, added
from serm.errors import UserError
from serm.files import data_files
from serm.lines import BrokenOff, chunks
from serm.parquet import DataFile
from serm.settings import Settings
from serm.settings.secret import user_key
from serm.stream import tables, ubi
from serm.stream.privacy import with_hashed_ids, with_hashed_users, with_like_sessions
from serm.stream.sessions import with_sessions

_HEAD = 64 << 10
_FORMS = (
    "a log is User Behavior Insights (UBI, JSON lines) or Parquet; of a table (CSV) make Parquet with the columns of"
    " IMPRESSIONS, for example with DuckDB: COPY (FROM 'log.csv') TO 'log.parquet'"
)
TEXT_SUFFIXES = tuple(name + packed for name in (".json", ".jsonl", ".ndjson") for packed in ("", ".gz", ".zst"))


@dataclass(frozen=True)
class Log:
    """An open log."""

    rows: ibis.Table
    """IMPRESSIONS and ``delivery``, which numbers the files in the order of their paths."""
    told: ubi.Told | None = None
    """What became of its lines; None where it is not of text."""
    stored: int | None = None
    """Its rows as the Parquet files' footers count them; None where it is of text."""


@contextmanager
def open_log(engine: BaseBackend, log: Path, bad_lines: Path, settings: Settings) -> Iterator[Log]:
    """Open ``log``: a file or a directory of them, Parquet as in IMPRESSIONS or UBI, or a Delta or Iceberg table.

    A text log's lines that are no good go to the dataset ``bad_lines``.

    Raises:
        UserError: no log, both formats in one directory, a column missing or of the wrong kind, no user key, or a
            table whose rows its files alone do not tell.
    """
    gap = settings.stream.session_gap_minutes
    is_table = tables.is_table(log)
    texts = [] if is_table else text_files(log)
    if not texts:
        rows, files = (_table if is_table else _deliveries)(engine, log, settings)
        lacking = bool(rows.session_id.isnull().any().to_pyarrow().as_py())
        stored = sum(file.rows for file in files)
        yield Log(engines.hold(engine, "log_rows", with_sessions(rows, gap)) if lacking else rows, None, stored)
        return
    require_json(log, texts)
    key = user_key()
    with tempfile.TemporaryDirectory(prefix="serm-") as scratch:
        parsed = Path(scratch) / "records.parquet"
        told = ubi.read_records(log, texts, parsed, bad_lines, settings)
        records = engines.read_parquet(engine, [parsed], pq.read_schema(parsed))
        if told.hashed:
            records = with_like_sessions(records, key)
        rows = ubi.impressions(with_hashed_users(engine, records, records, key), gap)
        yield Log(engines.hold(engine, "log_rows", with_hashed_ids(rows, key)), told)


def text_files(log: Path) -> Sequence[Path]:
    """The text files of ``log`` in the order of their paths; none where it is Parquet."""
    if log.is_file():
        with log.open("rb") as file:
            return [] if file.read(4) == b"PAR1" else [log]
    texts, columnar = data_files(log, TEXT_SUFFIXES), data_files(log, (".parquet",))
    if texts and columnar:
        raise UserError(f"{log}: it has Parquet files and {texts[0].name}; keep one format in a directory.")
    if log.is_dir() and not texts and not columnar:
        others = sorted(path.name for path in log.glob("[!._]*") if path.is_file())
        such = f", such as {others[0]}" if others else ""
        raise UserError(f"{log}: no file in it is a log{such}; {_FORMS}.")
    return texts


def require_json(log: Path, texts: Sequence[Path]) -> None:
    """Raise where no file begins as JSON lines do: each of its lines would be a bad one, and none says what to do."""
    lines: list[str] = []
    for file in texts:
        with contextlib.suppress(BrokenOff):
            head = next(chunks(file), b"")[:_HEAD].decode("utf-8-sig", "replace")
            lines += [line.strip() for line in head.split("\n") if line.strip()]
        if any(line.startswith("{") for line in lines):
            return
    if not lines:
        return
    if lines[0].startswith("["):
        raise UserError(f"{log}: it is a JSON array; write an object a line (jq -c '.[]').")
    raise UserError(f"{log}: its first line, {lines[0][:80]!r}, is no JSON; {_FORMS}.")


def _deliveries(engine: BaseBackend, log: Path, settings: Settings) -> tuple[ibis.Table, list[DataFile]]:
    files = parquet.dataset(log, IMPRESSIONS)
    later = parquet.optional_columns(files, IMPRESSIONS) | added(IMPRESSIONS)
    if settings.stream.allowed_lateness_hours is None:
        return parquet.scan(engine, files, IMPRESSIONS, later).mutate(delivery=0), files
    scanned = (parquet.scan(engine, [file], IMPRESSIONS, later) for file in files)
    return ibis.union(*(rows.mutate(delivery=number) for number, rows in enumerate(scanned))), files


def _table(engine: BaseBackend, log: Path, settings: Settings) -> tuple[ibis.Table, list[DataFile]]:
    if settings.stream.allowed_lateness_hours is not None:
        raise UserError(
            f"{log}: a table does not tell in which order its rows came; leave stream.allowed_lateness_hours out."
        )
    table = tables.snapshot(log)
    return parquet.scan(engine, table.files, IMPRESSIONS, table.columns | added(IMPRESSIONS)).mutate(
        delivery=0
    ), table.files
