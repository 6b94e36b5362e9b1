"""The query engine that runs SERM's ibis expressions, and the only place that makes one: DuckDB or Spark."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends import BaseBackend

from serm.errors import UserError
from serm.settings import EngineSettings

_SPARK_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # Spark has no other way to read pandas' times
    "spark.sql.jsonGenerator.ignoreNullFields": "false",  # as DuckDB writes JSON
}


@contextmanager
def connect(settings: EngineSettings) -> Iterator[BaseBackend]:
    """Yield the engine that the settings name; it reads times as UTC."""
    with (spark if settings.kind == "spark" else duckdb)(settings) as engine:
        yield engine


@contextmanager
def duckdb(settings: EngineSettings) -> Iterator[BaseBackend]:
    """Yield a DuckDB with bounded threads and memory, which reaches no network.

    Raises:
        UserError: it met a damaged file, a full disk, or too little memory.
    """
    import duckdb as driver

    with tempfile.TemporaryDirectory(prefix="serm-") as spill:
        engine = ibis.duckdb.connect(
            threads=settings.threads,
            memory_limit=f"{settings.memory_gb}GB",
            temp_directory=spill,
            autoinstall_known_extensions=False,
            TimeZone="UTC",
            preserve_insertion_order=False,  # as on Spark: what needs an order says so
            # DuckDB 2.0 believes Parquet statistics, which leave NaN out: it would fold isnan(score) to false.
            disabled_optimizers="statistics_propagation",
        )
        engine.con.execute("SET enable_progress_bar = false")  # it would go where figures are printed
        try:
            yield engine
        except driver.Error as error:
            if told := _fault(engine, error):
                raise told from error
            raise
        finally:
            engine.disconnect()


@contextmanager
def spark(settings: EngineSettings) -> Iterator[BaseBackend]:
    """Yield a Spark session: of the Connect server that the settings name, or in this process.

    A session that is there already is used, with our settings, and left open.

    Raises:
        ModuleNotFoundError: pyspark is not installed.
        UserError: it met a damaged file.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    builder = SparkSession.builder.appName("serm")
    if settings.remote:
        builder = builder.remote(settings.remote)
    else:
        builder = builder.master(f"local[{settings.threads}]").config(
            map={
                "spark.driver.memory": f"{round(settings.memory_gb * 1024)}m",
                "spark.sql.shuffle.partitions": str(settings.threads),
                "spark.ui.enabled": "false",
            }
        )
    session = running or builder.getOrCreate()
    for name, value in _SPARK_SETTINGS.items():
        session.conf.set(name, value)
    engine = ibis.pyspark.connect(session)
    try:
        yield engine
    except (PySparkException, Py4JError) as error:
        if told := _fault(engine, error):
            raise told from error
        raise
    finally:
        if running is None:
            session.stop()


#: What each engine was given to read, to name the file when one is damaged: DuckDB's words often do not.
_READ: WeakKeyDictionary[BaseBackend, list[str]] = WeakKeyDictionary()


def _fault(engine: BaseBackend, error: Exception) -> UserError | None:
    """Return what ``engine`` says in ``error`` as one sentence, if a file, the disk or its memory is at fault."""
    import duckdb as driver

    reason = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())[:300]
    if isinstance(error, driver.OutOfMemoryException):
        return UserError(f"The engine ran out of memory ({reason}); raise engine.memory_gb in params.yaml.")
    paths = _READ.get(engine, [])
    damaged = next((path for path in paths if path in str(error)), None) or next(filter(_is_damaged, paths), None)
    if damaged:
        return UserError(f"{damaged}: not readable as Parquet ({reason}); bring an undamaged copy.")
    if isinstance(error, driver.IOException):
        return UserError(f"{reason}; free some space, or allow it.")
    return None


def _is_damaged(path: str) -> bool:
    import duckdb as driver

    with driver.connect() as connection:
        try:
            connection.execute(
                "SELECT max(hash(rows)) FROM read_parquet($1, hive_partitioning = false) rows", [_as_glob(path)]
            )
        except driver.Error:
            return True
    return False


def read_parquet(engine: BaseBackend, files: Sequence[Path], columns: pa.Schema) -> ibis.Table:
    """Open Parquet files as one lazy table of their ``columns``, each of one type in all of them.

    Names are literal: no part of a path is a pattern, and no directory is a column.
    """
    paths = [os.path.abspath(file) for file in files]  # noqa: PTH100 (resolve() would follow links)
    _READ.setdefault(engine, []).extend(paths)
    if engine.name != "pyspark":
        return engine.read_parquet([_as_glob(path) for path in paths], hive_partitioning=False).select(columns.names)
    name = ibis.util.gen_name("parquet")  # ibis' own read_parquet takes one path on Spark
    reader = engine._session.read.schema(_spark_schema(columns)).option("__globPaths__", "false")
    frame = reader.parquet(*paths)
    for field in filter(_is_nanoseconds, columns):
        frame = frame.selectExpr(f"* except ({field.name})", f"timestamp_micros({field.name} div 1000) {field.name}")
    frame.createOrReplaceTempView(name)
    return engine.table(name)


def _is_nanoseconds(field: pa.Field) -> bool:
    return bool(pa.types.is_timestamp(field.type)) and field.type.unit == "ns"


def _spark_schema(columns: pa.Schema) -> Any:
    """The types that Spark has for Arrow's: given, so that it looks at no column that it cannot read."""
    from ibis.backends.pyspark.datatypes import PySparkType
    from pyspark.sql import types

    wider = {
        pa.uint8(): types.ShortType(),
        pa.uint16(): types.IntegerType(),
        pa.uint32(): types.LongType(),
        pa.uint64(): types.DecimalType(20, 0),
    }
    schema = types.StructType()
    for field in columns:
        read = types.LongType() if _is_nanoseconds(field) else wider.get(field.type)
        schema.add(field.name, read or PySparkType.from_ibis(ibis.dtype(field.type)))
    return schema


def _as_glob(path: str) -> str:
    """The pattern that matches ``path`` alone: DuckDB takes every path for one."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def hold(engine: BaseBackend, name: str, table: ibis.Table) -> ibis.Table:
    """Return ``table`` computed once, for several readers; the engine holds it (and spills it) as ``name``."""
    if engine.name == "pyspark":
        engine.raw_sql(engine.compile(table)).cache().createOrReplaceTempView(name)
        return engine.table(name)
    # Not cache(): ibis 12 cannot drop it again.
    return engine.create_table(name, table, temp=True)


def load(engine: BaseBackend, name: str, table: pa.Table) -> ibis.Table:
    """Return a small ``table`` of this process as a table of the engine's."""
    if engine.name == "pyspark":
        engine._session.createDataFrame(table).createOrReplaceTempView(name)
    else:
        engine.con.register(name, table)  # ibis' create_table fails on Arrow under DuckDB 2.0
    return engine.table(name)


#: Engine -> the type of its function ``hash``; only DuckDB's has 64 bits and no sign.
_HASH = {"duckdb": "uint64", "pyspark": "int32"}
#: Up to this share of the rows, those of crowded pages are sorted or grouped whole.
_FEW = 0.2


def _hash(row: Any) -> int: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="bit_count")  # type: ignore[untyped-decorator]
def _bit_count(bits: int) -> int: ...  # type: ignore[empty-body]


@ibis.udf.agg.builtin(name="bit_or")  # type: ignore[untyped-decorator]
def _bit_or(bits: int) -> int: ...  # type: ignore[empty-body]  # ibis' own is not defined for Spark


def split_repeated(
    engine: BaseBackend, table: ibis.Table, key: Sequence[str], page: str = "", place: str = ""
) -> tuple[ibis.Table, ibis.Table]:
    """Return the rows of ``table`` that no other row can share ``key`` with, and the few others.

    A first pass over hashes finds the others, so that only they must be sorted or grouped whole: over a log of 100
    million rows that is the difference between memory and disk. ``table`` is computed three to five times.

    Args:
        engine: where ``table`` is.
        table: any rows.
        key: the columns of the key.
        page: a column of the key that many rows share, and
        place: one of whole numbers that mostly differ on a ``page``, as positions do. Where all differ, no key on the
            page is repeated, which a bit a place tells with one group a page instead of one a row.
    """
    if page and (crowded := _crowded(engine, table, page, place)) is not None:
        return _split(engine, table, [page], crowded)
    hashes = table.select(hash=_fingerprint(engine, table, key)).group_by("hash").aggregate(rows=ibis._.count())
    return _split(engine, table, key, hold(engine, ibis.util.gen_name("several"), hashes.filter(hashes.rows > 1)))


def _crowded(engine: BaseBackend, table: ibis.Table, page: str, place: str) -> ibis.Table | None:
    """Return the hashes of the pages on which a place may be taken twice; None where these have many of the rows."""
    bit = ibis.literal(1 << 62) >> (table[place] % 62).abs()  # from above: engines take a 1 for a small integer
    pages = table.select(hash=_fingerprint(engine, table, [page]), bit=bit).group_by("hash")
    counts = pages.aggregate(rows=ibis._.count(), places=_bit_or(ibis._.bit).fill_null(0))
    crowded = hold(engine, ibis.util.gen_name("crowded"), counts.filter(counts.rows != _bit_count(counts.places)))
    of_crowded, of_all = (int(rows.to_pyarrow().as_py() or 0) for rows in (crowded.rows.sum(), table.count()))
    return crowded if of_crowded <= _FEW * of_all else None


def _split(
    engine: BaseBackend, table: ibis.Table, columns: Sequence[str], hashes: ibis.Table
) -> tuple[ibis.Table, ibis.Table]:
    """Return the rows of ``table`` whose hash of ``columns`` is not among the ``hashes``, and those whose hash is."""
    same = _fingerprint(engine, table, columns) == hashes.hash
    return table.anti_join(hashes, same), table.semi_join(hashes, same)


def _fingerprint(engine: BaseBackend, table: ibis.Table, columns: Sequence[str]) -> ibis.ir.IntegerValue:
    """A hash of the ``columns``; one alone is hashed as it is, since DuckDB is slower with a struct around it."""
    row = table[columns[0]] if len(columns) == 1 else ibis.struct({name: table[name] for name in columns})
    signature = ((row.type(),), _HASH[engine.name])
    value: ibis.ir.IntegerValue = ibis.udf.scalar.builtin(_hash, name="hash", signature=signature)(row)
    return value


def write(engine: BaseBackend, table: ibis.Table, path: Path, schema: pa.Schema, order_by: Sequence[str]) -> int:
    """Stream ``table`` into the new dataset ``path`` and return its number of rows.

    Rows are sorted by ``order_by`` and then by every other column that sorts, so that the same rows give the
    same bytes on the same engine (DuckDB writes one file, Spark one a partition). Call it inside
    ``serm.atomic.replace_directory``: alone it is not atomic.
    """
    # DuckDB marks a column NOT NULL when its source is one file that does, but not when it is several: the
    # condition hides it, so that the bytes depend on the rows only.
    table = table.select(**{name: table[name].notnull().ifelse(table[name], None) for name in schema.names})
    ties = [name for name in schema.names if name not in order_by and not table[name].type().is_map()]
    ordered = table.order_by([*order_by, *ties])
    if engine.name == "pyspark":
        engine.to_parquet(ordered, path, compression="zstd")
        _name_parts(path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        engine.to_parquet(ordered, path / "part-0.parquet", compression="zstd")
    return sum(int(pq.read_metadata(file).num_rows) for file in path.iterdir())


def _name_parts(path: Path) -> None:
    """Take the random ids out of the names of Spark's files, and its markers away."""
    parts = sorted(path.glob("part-*.parquet"))
    for other in set(path.iterdir()) - set(parts):
        other.unlink()
    for number, part in enumerate(parts):
        part.rename(path / f"part-{number}.parquet")
