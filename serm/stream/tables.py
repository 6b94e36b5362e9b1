"""Delta Lake and Iceberg tables: which Parquet files hold the current snapshot, read by the engine like any others.

What only the table's own reader would get right (rows deleted without a rewrite, renamed columns) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from serm.contracts import IMPRESSIONS
from serm.errors import UserError
from serm.parquet import DataFile, data_file, undamaged

#: Delta reader features that leave a snapshot's rows what its files say; the first two are looked at on their own.
_DELTA_FEATURES = {"deletionVectors", "columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
_METADATA = ".metadata.json"
#: ``v7.metadata.json``, ``00007-<uuid>.metadata.json``; a file that is not committed yet is named by a uuid alone.
_VERSION = re.compile(r"v?(\d{1,7})(?=[-.])")


@dataclass(frozen=True)
class Snapshot:
    """A table as it is now."""

    columns: set[str]
    """Of the table; a column that it got after a file was written is null there."""
    files: list[DataFile]


def is_table(log: Path) -> bool:
    """Whether ``log`` is a Delta table, an Iceberg table, or the metadata file of one."""
    return (log / "_delta_log").is_dir() or log.name.endswith(_METADATA) or any(_metadata_files(log))


def snapshot(log: Path) -> Snapshot:
    """Return the current snapshot of the table ``log``.

    Raises:
        UserError: its Parquet files alone do not tell its rows, or are not on this machine.
    """
    columns, found = _delta(log) if (log / "_delta_log").is_dir() else _iceberg(log)
    if not found:
        raise UserError(f"{log}: the table has no data files; write the log to it first.")
    for path in found:
        if not path.is_file():
            raise UserError(f"{log}: its data file {path} is not there; bring the table here with all its files.")
    return Snapshot(columns, [data_file(path, IMPRESSIONS, constants) for path, constants in found.items()])


#: A table's columns, and its data files with the values that their partitions give to all of their rows.
_Found = tuple[set[str], dict[Path, dict[str, Any]]]


def _delta(log: Path) -> _Found:
    from deltalake import DeltaTable

    if re.search(r"%[0-9a-fA-F]{2}|\\", str(log.absolute())):  # it would read aAb for a%41b, and a/b for a\\b
        raise UserError(
            f"{log}: a Delta table's path may have no \\ and no %41 or the like; rename or link the directory."
        )
    with _readable(log, "Delta table"):
        table = DeltaTable(str(log))
        features = set(table.protocol().reader_features or ())
    if unknown := features - _DELTA_FEATURES:
        raise UserError(f"{log}: the Delta table needs {', '.join(sorted(unknown))}; copy the log to plain Parquet.")
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise UserError(f"{log}: the Delta table maps its columns' names; copy the log to plain Parquet.")
    if "deletionVectors" in features and any(len(batch["filepath"]) for batch in table.deletion_vectors()):
        raise UserError(f"{log}: the Delta table has deletion vectors; run REORG TABLE ... APPLY (PURGE) on it.")
    with _readable(log, "Delta table"):
        actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    partitions = table.metadata().partition_columns
    files = {
        _local(log, log / unquote(action["path"])): {name: action[f"partition.{name}"] for name in partitions}
        for action in sorted(actions, key=lambda action: str(action["path"]))
    }
    return {one.name for one in table.schema().fields}, files


def _iceberg(log: Path) -> _Found:
    from pyiceberg.table import StaticTable

    with _readable(log, "Iceberg table"):
        metadata = log if log.name.endswith(_METADATA) else _current_metadata(log)
    with _readable(metadata, "Iceberg metadata file"):
        table = StaticTable.from_metadata(str(metadata))
        tasks = sorted(table.scan().plan_files(), key=lambda task: task.file.file_path)
    ids = {one.name: one.field_id for one in table.schema().fields}
    files = {}
    for task in tasks:
        if task.delete_files:
            raise UserError(f"{log}: the Iceberg table has delete files; rewrite its data files (rewrite_data_files).")
        if task.file.file_format != "PARQUET":
            raise UserError(f"{log}: the Iceberg table has {task.file.file_format} files; rewrite them as Parquet.")
        path = _local(log, Path(re.sub(r"^file:(//)?", "", task.file.file_path)))
        files[path] = dict(_identities(table, task.file))
        _require_names(log, path, ids)
    return set(ids), files


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn what a table's library says of damaged metadata into a ``UserError``."""
    try:
        yield
    except (UserError, ModuleNotFoundError):
        raise
    except Exception as error:  # a parser that meets noise raises anything, even SystemError
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{path}: not a readable {what} ({reason}); mend it, or copy the log to plain Parquet."
        ) from error


def _identities(table: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """The columns that the partition of ``file`` gives as they are."""
    from pyiceberg.transforms import IdentityTransform

    for place, part in enumerate(table.specs()[file.spec_id].fields):
        column = table.schema().find_column_name(part.source_id)
        if isinstance(part.transform, IdentityTransform) and column:
            yield column, file.partition[place]


def _require_names(log: Path, path: Path, ids: dict[str, int]) -> None:
    """Iceberg knows a column by its number: one that was renamed, or made anew, has another name in older files."""
    if not path.is_file():
        return  # told by ``snapshot``
    with undamaged(path):
        columns = pq.read_schema(path)
    for column in columns:
        number = int((column.metadata or {}).get(b"PARQUET:field_id", -1))
        name = next((name for name, one in ids.items() if one == number), None)
        wrong = {column.name, name} & set(IMPRESSIONS.names)
        if number >= 0 and wrong and name != column.name:
            raise UserError(
                f"{log}: column {wrong.pop()!r} was renamed or made anew after {path.name} was written; "
                "rewrite the table's data files."
            )


def _metadata_files(log: Path) -> Iterator[Path]:
    return (log / "metadata").glob(f"*{_METADATA}")


def _current_metadata(log: Path) -> Path:
    """The metadata of the newest version: what the version hint says, or the highest number."""
    hint = log / "metadata" / "version-hint.text"
    if hint.is_file():
        version = hint.read_text(encoding="utf-8").strip()
        return log / "metadata" / f"{'v' if version.isdecimal() else ''}{version.removesuffix(_METADATA)}{_METADATA}"
    found = ((path, _VERSION.match(path.name)) for path in _metadata_files(log))
    numbered = {path: int(match[1]) for path, match in found if match}
    newest = [path for path, number in numbered.items() if number == max(numbered.values())]
    if len(newest) != 1:
        raise UserError(f"{log}: {len(newest)} metadata files may be current; give the right one as the log.")
    return newest[0]


def _local(log: Path, path: Path) -> Path:
    if ":/" in str(path):
        raise UserError(f"{log}: its data file {path} is not on a local path; copy the table here.")
    return path
