"""A log, whatever its format, as rows of impressions that say which delivery (file) they came with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.settings import Settings
from serm.stream import ubi
from serm.stream.privacy import keyed_hash, user_key
from serm.stream.sessions import with_sessions

TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")


@contextmanager
def open_log(
    engine: BaseBackend, log: Path, bad_lines: Path, settings: Settings
) -> Iterator[tuple[ibis.Table, dict[str, int]]]:
    """Yield the rows of ``log`` (IMPRESSIONS and ``delivery``), and what became of its lines where it is of text.

    ``log`` is a file or a directory of them, Parquet as in IMPRESSIONS or UBI; ``delivery`` numbers the files in
    the order of their paths. A text log's lines that are no good go to the dataset ``bad_lines``.

    Raises:
        UserError: no log, both formats in one directory, a column missing or of the wrong kind, or no user key.
    """
    texts = _text_files(log)
    gap = settings.stream.session_gap_minutes
    if not texts:
        rows = _deliveries(engine, log, settings)
        lacking = bool(rows.session_id.isnull().any().to_pyarrow().as_py())
        yield (with_sessions(rows, gap) if lacking else rows), {}
        return
    key = user_key()
    with tempfile.TemporaryDirectory(prefix="serm-") as scratch:
        parsed = Path(scratch) / "records.parquet"
        lines = ubi.read(log, texts, parsed, bad_lines, settings)
        records = engines.read_parquet(engine, [parsed])
        yield ubi.impressions(records.mutate(user_id=keyed_hash(records.user_id, key)), gap), lines


def _text_files(log: Path) -> Sequence[Path]:
    """The text files of ``log`` in the order of their paths; none where it is Parquet."""
    if log.is_file():
        with log.open("rb") as file:
            return [] if file.read(4) == b"PAR1" else [log]
    files = sorted(path for path in log.rglob("*") if path.is_file())
    texts = [path for path in files if path.name.endswith(TEXT_SUFFIXES)]
    if texts and any(path.suffix == ".parquet" for path in files):
        raise UserError(f"{log}: it has Parquet files and {texts[0].name}; keep one format in a directory.")
    return texts


def _deliveries(engine: BaseBackend, log: Path, settings: Settings) -> ibis.Table:
    if settings.stream.allowed_lateness_hours is None:
        return contracts.scan(engine, log, contracts.IMPRESSIONS).mutate(delivery=0)
    return ibis.union(
        *(
            contracts.scan(engine, file, contracts.IMPRESSIONS).mutate(delivery=number)
            for number, file in enumerate(contracts.parquet_files(log))
        )
    )
