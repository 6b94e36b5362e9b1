"""The query engine that runs SERM's ibis expressions, and the only place that makes one: DuckDB, for now."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends import BaseBackend

from serm.settings import EngineSettings


@contextmanager
def connect(settings: EngineSettings) -> Iterator[BaseBackend]:
    """Yield an engine with bounded threads and memory, which reaches no network and reads times as UTC."""
    with tempfile.TemporaryDirectory(prefix="serm-") as spill:
        engine = ibis.duckdb.connect(
            threads=settings.threads,
            memory_limit=f"{settings.memory_gb}GB",
            temp_directory=spill,
            autoinstall_known_extensions=False,
            TimeZone="UTC",
            # DuckDB 2.0 believes Parquet statistics, which leave NaN out: it would fold isnan(score) to false.
            disabled_optimizers="statistics_propagation",
        )
        try:
            yield engine
        finally:
            engine.disconnect()


def write(engine: BaseBackend, table: ibis.Table, path: Path, schema: pa.Schema, order_by: Sequence[str]) -> int:
    """Stream ``table`` into the new dataset ``path`` and return its number of rows.

    Rows are sorted by ``order_by`` and then by every other column that sorts, so that the same rows give the
    same bytes. Call it inside ``serm.atomic.replace_directory``: alone it is not atomic.
    """
    # DuckDB marks a column NOT NULL when its source is one file that does, but not when it is several: the
    # condition hides it, so that the bytes depend on the rows only.
    table = table.select(**{name: table[name].notnull().ifelse(table[name], None) for name in schema.names})
    ties = [name for name in schema.names if name not in order_by and not table[name].type().is_map()]
    path.mkdir(parents=True)
    file = path / "part-0.parquet"
    engine.to_parquet(table.order_by([*order_by, *ties]), file, compression="zstd")
    return int(pq.read_metadata(file).num_rows)
