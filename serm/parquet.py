"""The Parquet files of a dataset as pandas, Spark and others write them, each read by a contract's types.

What a column is, is told from each file's footer, for both engines alike, before an engine reads a row. A column that
is of another kind, or could be read in two ways, is refused with the file and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from serm.atomic import recover
from serm.errors import UserError, os_fault
from serm.files import data_files

if TYPE_CHECKING:
    import ibis
    import ibis.expr.datatypes as dt
    from ibis.backends import BaseBackend

_PARTITION = re.compile("([^=]+)=(.*)", re.DOTALL)
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_NO_ZONE = "it does not say of which time zone: write it as UTC (pandas: .dt.tz_localize('UTC'))"
_OTHER = "cast it when you write the file"


@dataclass(frozen=True)
class DataFile:
    """A Parquet file and what its footer says of the columns of a contract."""

    path: Path
    rows: int
    names: tuple[str, ...]
    """All of its columns."""
    types: dict[str, pa.DataType]
    """A column of the contract -> its type in the file, how it is encoded apart; a column of nulls only is left out."""
    constants: dict[str, Any]
    """A column of the contract that the file lacks -> the value of all its rows, such as a partition's."""

    @property
    def columns(self) -> set[str]:
        """The columns of the contract that the file has or is said to have."""
        return {*self.types, *self.constants}


def dataset(root: Path, schema: pa.Schema) -> list[DataFile]:
    """Open the Parquet files of ``root``, a file or a directory of them, for ``schema``; in a fixed order.

    A directory below ``root`` that is named ``column=value`` gives all its rows that value, where they lack the column.

    Raises:
        UserError: there is none, or one is damaged, or has a column of another kind than ``schema``.
    """
    return [data_file(path, schema, _partition(root, path, schema)) for path in parquet_files(root)]


def parquet_files(root: Path) -> list[Path]:
    """Return the Parquet files of ``root``, a file or a directory of them, in a fixed order.

    Raises:
        UserError: there is none.
    """
    recover(root)
    files = [root] if root.is_file() else data_files(root, (".parquet",))
    if not files:
        raise UserError(f"{root}: no Parquet files there; check the path in params.yaml or run the step before.")
    return files


def data_file(path: Path, schema: pa.Schema, constants: Mapping[str, Any]) -> DataFile:
    """Open the Parquet file ``path`` for ``schema``; ``constants`` holds for the columns that it lacks.

    Raises:
        UserError: it is damaged, has two columns that an engine takes for one, or one of another kind.
    """
    with undamaged(path), pa.OSFile(str(path)) as source:
        metadata = pq.read_metadata(source)
        found, names = _stored(metadata), metadata.schema.to_arrow_schema().names
    for name in schema.names:
        if len(alike := [other for other in names if other.lower() == name]) > 1:
            raise UserError(f"{path}: columns {', '.join(map(repr, alike))} are one to an engine; leave one.")
    found_here = {name: kind for name, kind in found.items() if name in schema.names}
    for name, kind in found_here.items():
        if not _fits(kind, wanted := schema.field(name).type):
            fix = _NO_ZONE if kinds.is_timestamp(wanted) and kinds.is_timestamp(kind) else _OTHER
            raise UserError(f"{path}: column {name!r} is {kind}; its contract says {wanted}: {fix}.")
    given = {name: value for name, value in constants.items() if name in schema.names and name not in found}
    given |= {name: None for name, kind in found_here.items() if kinds.is_null(kind)}
    types = {name: kind for name, kind in found_here.items() if not kinds.is_null(kind)}
    return DataFile(path, metadata.num_rows, tuple(found), types, given)


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file ``path`` into a ``UserError``."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, OSError) and (told := os_fault(error, path)):
            raise told from error
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not readable as Parquet ({reason}); bring an undamaged copy.") from error


def optional_columns(files: Iterable[DataFile], schema: pa.Schema) -> set[str]:
    """Return the columns that may be null by ``schema`` and that one of ``files`` has: null in those that lack them."""
    nullable = {field.name for field in schema if field.nullable}
    return set().union(*(file.columns for file in files)) & nullable


def require_columns(files: Iterable[DataFile], schema: pa.Schema, later: set[str]) -> None:
    """Raise a ``UserError`` unless each of ``files`` has all columns of ``schema`` but those in ``later``."""
    for file in files:
        if missing := [name for name in schema.names if name not in file.columns | later]:
            absent = ", ".join(map(repr, missing))
            raise UserError(f"{file.path}: column {absent} is missing; it has {', '.join(file.names)}.")


def scan(engine: BaseBackend, files: Sequence[DataFile], schema: pa.Schema, later: set[str]) -> ibis.Table:
    """Open ``files`` as one lazy ibis table with the columns and types of ``schema``; nulls are let through.

    A column in ``later`` is null in files that lack it. A whole number that its type cannot hold becomes null.

    Raises:
        UserError: a column is missing.
    """
    import ibis

    require_columns(files, schema, later)
    alike: dict[str, list[DataFile]] = {}
    for file in files:
        alike.setdefault(repr((sorted(file.types.items()), sorted(file.constants.items()))), []).append(file)
    return ibis.union(*(_alike(engine, group, schema) for group in alike.values()))


def _alike(engine: BaseBackend, files: Sequence[DataFile], schema: pa.Schema) -> ibis.Table:
    """Files of the same types and constants."""
    import ibis

    from serm.engine import read_parquet

    types, constants = files[0].types, files[0].constants
    table = read_parquet(engine, [file.path for file in files], pa.schema(list(types.items())))
    columns = {}
    for name, kind in ibis_types(schema).items():
        value = table[name] if name in types else ibis.literal(constants.get(name), kind)
        if kind.is_map() and not schema.field(name).nullable:
            value = _as_map(value, kind)
        columns[name] = value.try_cast(kind) if kind.is_integer() else value.cast(kind)
    return table.select(**columns)


def ibis_types(schema: pa.Schema) -> dict[str, dt.DataType]:
    """Return the types of ``schema`` in ibis, all nullable."""
    import ibis

    return {name: kind.copy(nullable=True) for name, kind in ibis.Schema.from_pyarrow(schema).items()}


def _as_map(column: Any, wanted: dt.DataType) -> Any:
    """A map from one, from a struct, whose null fields are absent, or from a list of pairs; null is an empty map.

    A key that is null or there twice makes no map: that row's is null, for validation to quarantine.
    """
    import ibis

    kind, empty = column.type(), ibis.literal({}, wanted)
    if kind.is_map():
        return column.cast(wanted).fill_null(empty)
    if kind.is_struct():
        texts = {name: column[name].cast("string") for name in kind.names if not kind[name].is_null()}
        keys = ibis.array([text.notnull().ifelse(name, None) for name, text in texts.items()])
        keys, values = (one.filter(lambda it: it.notnull()) for one in (keys, ibis.array(list(texts.values()))))
    elif kind.value_type.is_struct():
        keys, values = column.map(lambda pair: pair.key), column.map(lambda pair: pair.value.cast("string"))
    else:
        keys, values = column.map(lambda pair: pair[0]), column.map(lambda pair: pair[1])
    sound = keys.filter(lambda key: key.notnull()).unique().length() == keys.length()
    return ibis.cases((column.isnull(), empty), (sound, ibis.map(keys, values)))


def read(file: DataFile, schema: pa.Schema) -> pa.Table:
    """Return all rows of ``file``, with the columns of ``schema`` as they are stored; those that it lacks are null.

    Raises:
        UserError: the file is damaged.
    """
    with undamaged(file.path), pa.OSFile(str(file.path)) as source:
        stored = pq.ParquetFile(source, coerce_int96_timestamp_unit="us").read(columns=list(file.types))
        stored.validate(full=True)
    columns = {
        field.name: _decoded(stored[field.name], file.types[field.name])
        if field.name in file.types
        else pa.repeat(pa.scalar(file.constants.get(field.name), field.type), file.rows)
        for field in schema
    }
    return pa.table(columns)


def _decoded(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Spark stores a time as INT96, which is UTC though Arrow does not say so."""
    return column.cast(pa.timestamp("us")).cast(kind) if kinds.is_timestamp(kind) else column


def _stored(metadata: pq.FileMetaData) -> dict[str, pa.DataType]:
    """Column -> its type, however it is encoded."""
    instants = {column.path for column in _leaves(metadata.schema) if column.physical_type == "INT96"}
    return {
        field.name: pa.timestamp("us", "UTC") if field.name in instants else _plain(field.type)
        for field in metadata.schema.to_arrow_schema()
    }


def _leaves(schema: pq.ParquetSchema) -> Iterator[pq.ColumnSchema]:
    return (schema.column(number) for number in range(len(schema)))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what only says how it is held in memory: dictionaries, views, 64-bit offsets, JSON as a text,
    fields that are null throughout."""
    if kinds.is_dictionary(kind):
        return _plain(kind.value_type)
    if kinds.is_large_string(kind) or kinds.is_string_view(kind) or isinstance(kind, pa.JsonType):
        return pa.string()
    if kinds.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_list_view(kind) or kinds.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    if kinds.is_struct(kind):
        fields = [(field.name, _plain(field.type)) for field in kind]
        told = [(name, item) for name, item in fields if not kinds.is_null(item)]
        return pa.struct(told) if told else pa.null()
    return kind


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether reading ``found`` as ``wanted`` changes a width or a unit at most, never what a value means."""
    if kinds.is_null(found):
        return True
    if kinds.is_floating(wanted):
        return kinds.is_integer(found) or kinds.is_decimal(found) or found in (pa.float32(), pa.float64())
    if kinds.is_integer(wanted):
        return bool(kinds.is_integer(found))
    if kinds.is_timestamp(wanted):
        return bool(kinds.is_timestamp(found) and found.tz)
    if kinds.is_map(wanted):
        return _is_map_of_texts(found)
    if kinds.is_nested(wanted):
        return bool(kinds.is_nested(found))  # SERM's own; the cast looks closer
    return bool(found == wanted)


def _is_map_of_texts(kind: pa.DataType) -> bool:
    def is_text(item: pa.DataType) -> bool:
        return any(test(item) for test in (kinds.is_string, kinds.is_signed_integer, kinds.is_boolean))

    if kinds.is_struct(kind):
        return all(is_text(field.type) for field in kind)
    if kinds.is_list(kind) and kinds.is_struct(pair := kind.value_type):
        return [field.name for field in pair] == ["key", "value"] and all(is_text(field.type) for field in pair)
    if kinds.is_list(kind) and kinds.is_list(kind.value_type):
        return bool(kinds.is_string(kind.value_type.value_type))
    return bool(kinds.is_map(kind) and is_text(kind.key_type) and is_text(kind.item_type))


def _partition(root: Path, path: Path, schema: pa.Schema) -> dict[str, Any]:
    """The columns of ``schema`` that the directories between ``root`` and ``path`` name, with their values."""
    given = {}
    for folder in path.relative_to(root).parts[:-1]:
        if (match := _PARTITION.fullmatch(folder)) and (name := unquote(match[1])) in schema.names:
            text, kind = unquote(match[2]), schema.field(name).type
            try:
                given[name] = None if text == _HIVE_NULL else pa.scalar(text).cast(kind).as_py()
            except pa.ArrowException as error:
                raise UserError(
                    f"{path}: its directory {folder!r} gives column {name!r} a value that is no {kind}; rename it."
                ) from error
    return given
