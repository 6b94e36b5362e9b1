"""Parquet as pandas, Spark and others write it is read by the contract's types, or refused in one sentence."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import contracts, stream
from serm import engine as engines
from serm.errors import UserError
from serm.settings import EngineSettings, Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
Ingest = Callable[[Path], pa.Table]


@pytest.fixture
def ingest(make_settings: MakeSettings, tmp_path: Path) -> Ingest:
    """Ingest a log and return its impressions, in an order of their own."""

    def run(log: Path) -> pa.Table:
        stream.ingest(log, tmp_path / "out", make_settings())
        return in_order(contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS))

    return run


def in_order(table: pa.Table) -> pa.Table:
    table = pa.table({name: table[name] for name in contracts.IMPRESSIONS.names}).cast(contracts.IMPRESSIONS)
    return table.sort_by([("query_id", "ascending"), ("position", "ascending")]).combine_chunks()


def write(table: pa.Table, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def test_a_log_that_pandas_wrote(make_impressions: Make, ingest: Ingest, tmp_path: Path) -> None:
    """Times in UTC nanoseconds, columns of objects that are all None, and its index."""
    table = make_impressions(searches=6)
    frame = table.to_pandas()
    frame["event_time"] = frame["event_time"].astype("datetime64[ns, UTC]")
    frame["locale"] = frame["locale"].astype("category")
    frame["position"] = frame["position"].astype("Int64")
    frame.index = frame["query_id"].rename("i")
    frame.to_parquet(tmp_path / "log.parquet")
    stored = pq.read_schema(tmp_path / "log.parquet")
    assert (str(stored.field("event_time").type), stored.field("variant").type) == ("timestamp[ns, tz=UTC]", pa.null())
    assert ingest(tmp_path / "log.parquet") == in_order(table)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("event_time", pa.timestamp("ns", "UTC")),
        ("event_time", pa.timestamp("ms", "Europe/Berlin")),
        ("query", pa.large_string()),
        ("query", pa.string_view()),
        ("locale", pa.dictionary(pa.int8(), pa.large_string())),
        ("position", pa.uint8()),
        ("position", pa.uint64()),
        ("position", pa.int64()),
        ("score", pa.float32()),
        ("dwell_seconds", pa.null()),
        ("score", pa.null()),
    ],
)
def test_a_column_of_another_encoding_is_read_by_the_contract_s_type(
    name: str, kind: pa.DataType, make_impressions: Make, ingest: Ingest, tmp_path: Path
) -> None:
    table = make_impressions(searches=6)
    whole = pc.cast(pc.cast(table["event_time"], pa.timestamp("s", "UTC")), pa.timestamp("us", "UTC"))
    table = with_column(table, "event_time", whole)
    values = pa.nulls(table.num_rows) if kind == pa.null() else pc.cast(table[name], kind, safe=False)
    changed = with_column(table, name, values)
    expected = in_order(changed)
    assert ingest(write(changed, tmp_path / "log/a.parquet")) == expected
    assert in_order(contracts.read(tmp_path / "log", contracts.IMPRESSIONS)) == expected


def test_spark_s_times_are_utc(make_impressions: Make, ingest: Ingest, tmp_path: Path) -> None:
    """INT96, which Spark writes unless told not to, says of no zone; Spark stores UTC."""
    table = make_impressions(searches=6)
    naive = with_column(table, "event_time", pc.cast(table["event_time"], pa.timestamp("us")))
    log = write(naive, tmp_path / "log/a.parquet", use_deprecated_int96_timestamps=True)
    assert pq.ParquetFile(log).schema.column(0).physical_type == "INT96"
    assert ingest(log) == in_order(table)
    assert in_order(contracts.read(log, contracts.IMPRESSIONS)) == in_order(table)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("event_time", pa.array([dt.datetime(2018, 5, 1)] * 5), "is timestamp[us]; its contract says timestamp[us, tz"),
        ("event_time", pa.array([dt.datetime(2018, 5, 1)] * 5, pa.timestamp("ns")), "write it as UTC"),
        ("event_time", pa.array(["2018-05-01"] * 5), "is string; its contract says timestamp[us, tz=UTC]: cast it"),
        ("event_time", pa.array([dt.date(2018, 5, 1)] * 5), "is date32[day]"),
        ("query", pa.array([b"lamp"] * 5), "is binary"),
        ("query", pa.array([7] * 5), "is int64; its contract says string"),
        ("position", pa.array([1.0, None, 3.0, 4.0, 5.0]), "is double; its contract says int32"),
        ("clicked", pa.array([0, 1, 0, 1, 0]), "is int64; its contract says bool"),
        ("user_id", pa.array([b"0123456789abcdef"] * 5, pa.uuid()), "is extension<arrow.uuid>"),
        ("query", pa.array([{"text": "lamp"}] * 5), "is struct<text: string>"),
        ("score", pa.array(["1.5"] * 5), "is string; its contract says double"),
    ],
)
def test_a_column_of_another_kind_is_named_with_its_file(
    name: str, values: pa.Array, words: str, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=1)
    write(table, tmp_path / "log/a.parquet")
    write(with_column(table, name, values), tmp_path / "log/b.parquet")
    for read in (
        lambda: stream.ingest(tmp_path / "log", tmp_path / "out", make_settings()),
        lambda: contracts.read(tmp_path / "log", contracts.IMPRESSIONS),
    ):
        with pytest.raises(UserError) as raised:
            read()
        message = str(raised.value)
        assert message.startswith(f"{tmp_path}/log/b.parquet: column {name!r} ")
        assert words in message
        assert "\n" not in message


def test_columns_that_the_log_has_beside_the_contract_s_may_be_of_any_type(
    make_impressions: Make, ingest: Ingest, tmp_path: Path
) -> None:
    table = make_impressions(searches=6)
    odd = table.append_column("extra", pa.array([b"0123456789abcdef"] * 30, pa.uuid()))
    odd = odd.append_column("seen", pa.array([1] * 30, pa.time64("ns"))).append_column("no", pa.nulls(30))
    write(odd[:10], tmp_path / "log/a.parquet")
    write(table.append_column("extra", pa.array([{"x": [1]}] * 30))[10:20], tmp_path / "log/b.parquet")
    write(table[20:], tmp_path / "log/c.parquet")
    assert ingest(tmp_path / "log") == in_order(table)


def test_files_of_one_directory_may_differ(make_impressions: Make, ingest: Ingest, tmp_path: Path) -> None:
    """An optional column less, another order, other widths, all null here and not there."""
    table = make_impressions(searches=6)
    table = with_column(table, "variant", pa.array([None] * 20 + ["b"] * 10, pa.string()))
    table = with_column(table, "score", pa.array([None] * 10 + [1.5] * 20, pa.float64()))
    write(table[:10].drop_columns(["variant", "score"]), tmp_path / "log/a.parquet")
    shuffled = table[10:20].select(table.column_names[::-1])
    shuffled = with_column(shuffled, "position", pc.cast(shuffled["position"], pa.uint16()))
    write(with_column(shuffled, "variant", pa.nulls(10)), tmp_path / "log/b.parquet")
    write(table[20:], tmp_path / "log/c.parquet")
    assert ingest(tmp_path / "log") == in_order(table)
    assert in_order(contracts.read(tmp_path / "log", contracts.IMPRESSIONS)) == in_order(table)


def test_a_column_that_one_file_lacks_and_needs_is_named(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=2)
    write(table, tmp_path / "log/a.parquet")
    write(table.drop_columns("query"), tmp_path / "log/b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: column 'query' is missing; it has event_time"):
        stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())
    write(table.drop_columns("score"), tmp_path / "one/a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column 'score' is missing"):
        stream.ingest(tmp_path / "one", tmp_path / "out", make_settings())


def test_two_columns_that_an_engine_takes_for_one_are_refused(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=2)
    both = table.add_column(0, "Query", pa.array(["evil"] * 10))
    with pytest.raises(UserError, match="columns 'Query', 'query' are one to an engine"):
        stream.ingest(write(both, tmp_path / "log.parquet"), tmp_path / "out", make_settings())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("variant", ["1", "02", None]),
        ("locale", ["no", "null", "1e3"]),
        ("query", ["2e3", "1.50", "a/b=c%41 é"]),
        ("user_id", ["true", "0x10", "NaN"]),
    ],
)
def test_a_partition_s_value_is_read_by_the_contract_s_type(
    name: str, values: list[str | None], make_impressions: Make, ingest: Ingest, tmp_path: Path
) -> None:
    table = make_impressions(searches=6)
    table = with_column(table, name, pa.array([values[n // 10] for n in range(30)], pa.string()))
    table.to_pandas().to_parquet(tmp_path / "log", partition_cols=["model_version", name])
    assert ingest(tmp_path / "log") == in_order(table)
    assert in_order(contracts.read(tmp_path / "log", contracts.IMPRESSIONS)) == in_order(table)


def test_a_partition_s_value_that_is_none_of_its_type_is_named(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    write(make_impressions(searches=1).drop_columns("position"), tmp_path / "log/position=first/a.parquet")
    with pytest.raises(UserError, match="'position=first' gives column 'position' a value that is no int32"):
        stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())


def test_a_column_in_the_file_counts_before_a_partition_of_its_name(
    make_impressions: Make, ingest: Ingest, tmp_path: Path
) -> None:
    table = make_impressions(searches=2)
    write(table, tmp_path / "log/locale=xx/a.parquet")
    assert ingest(tmp_path / "log") == in_order(table)


ATTRIBUTES = {
    "struct": pa.array([{"emoji": "a", "n": 1, "gone": None}, {"emoji": None, "n": 2, "gone": None}, None]),
    "map": pa.array([[("emoji", "a"), ("n", "1")], [("n", "2")], None], pa.map_(pa.string(), pa.large_string())),
    "map of numbers": pa.array([[("n", 1)], [("n", 2)], None], pa.map_(pa.string(), pa.int64())),
    "pairs": pa.array([[{"key": "emoji", "value": "a"}, {"key": "n", "value": "1"}], [{"key": "n", "value": "2"}], []]),
    "tuples, as pandas writes a map": pa.array([[["emoji", "a"], ["n", "1"]], [["n", "2"]], None]),
    "list views": pa.array(
        [[{"key": "emoji", "value": "a"}, {"key": "n", "value": "1"}], [{"key": "n", "value": "2"}], None],
        pa.list_view(pa.struct([("key", pa.string()), ("value", pa.string())])),
    ),
    "null": pa.nulls(3),
    "a struct of nulls": pa.array([{"a": None}] * 3),
}


def expected_attributes(name: str) -> list[dict[str, str]]:
    if "null" in name:
        return [{}, {}, {}]
    return [{"n": "1"} if "numbers" in name else {"emoji": "a", "n": "1"}, {"n": "2"}, {}]


def documents(attributes: pa.Array) -> pa.Table:
    count = len(attributes)
    columns = {"doc_id": [f"d{n}" for n in range(count)], "locale": ["en"] * count, "title": ["t"] * count}
    columns |= {"body": [""] * count, "published_at": [dt.datetime(2017, 1, 1, tzinfo=dt.UTC)] * count}
    return pa.table({**columns, "attributes": attributes})


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_any_shape_become_a_map_of_texts(name: str, tmp_path: Path) -> None:
    write(documents(ATTRIBUTES[name]), tmp_path / "documents/a.parquet")
    with engines.duckdb(EngineSettings(threads=1)) as engine:
        table = contracts.scan(engine, tmp_path / "documents", contracts.DOCUMENTS).order_by("doc_id").to_pyarrow()
    assert table.schema.field("attributes").type == pa.map_(pa.string(), pa.string())
    assert [dict(row) for row in table["attributes"].to_pylist()] == expected_attributes(name)


def test_attributes_with_a_key_twice_are_null_for_validation_to_quarantine(tmp_path: Path) -> None:
    pairs = [[{"key": "a", "value": "1"}, {"key": "a", "value": "2"}], [{"key": None, "value": "1"}], []]
    write(documents(pa.array(pairs)), tmp_path / "documents/a.parquet")
    with engines.duckdb(EngineSettings(threads=1)) as engine:
        table = contracts.scan(engine, tmp_path / "documents", contracts.DOCUMENTS).order_by("doc_id").to_pyarrow()
    assert table["attributes"].to_pylist() == [None, None, []]


@pytest.mark.parametrize("values", [[{"price": 1.5}], [{"size": {"w": 1}}], ["red"], [[1, 2]]])
def test_attributes_that_are_no_texts_are_refused(values: list[Any], tmp_path: Path) -> None:
    write(documents(pa.array(values)), tmp_path / "documents/a.parquet")
    with engines.duckdb(EngineSettings(threads=1)) as engine, pytest.raises(UserError, match="column 'attributes' is"):
        contracts.scan(engine, tmp_path / "documents", contracts.DOCUMENTS)


KINDS = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.uint64(), pa.int64(), pa.float16(), pa.float32(), pa.float64(),
    pa.decimal128(9, 2), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.date32(),
    pa.time64("us"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns", "UTC"),
    pa.timestamp("ms", "Asia/Tokyo"), pa.duration("us"), pa.list_(pa.string()),
    pa.struct([("a", pa.string())]), pa.map_(pa.string(), pa.string()), pa.dictionary(pa.int32(), pa.string()),
]  # fmt: skip


@settings(max_examples=examples(120))
@given(name=st.sampled_from(contracts.IMPRESSIONS.names), kind=st.sampled_from(KINDS), seed=st.integers(0, 9))
def test_a_column_of_any_type_is_read_or_named(
    name: str, kind: pa.DataType, seed: int, make_impressions: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is taken has the contract's type and keeps its nulls; whatever else is there, one sentence says so."""
    table = make_impressions(searches=1)
    mask = np.random.default_rng(seed).random(5) < 0.5
    values = pa.nulls(5) if kind == pa.null() else pa.array([None if one else sample(kind) for one in mask], kind)
    log = write(with_column(table, name, values), tmp_path_factory.mktemp("log") / "a.parquet")
    refusals = []
    with engines.duckdb(EngineSettings(threads=1)) as engine:
        try:
            rows = contracts.scan(engine, log, contracts.IMPRESSIONS).to_pyarrow()
        except UserError as error:
            refusals = [str(error)]
    if refusals:
        assert f"column {name!r} is" in refusals[0]
    else:
        assert rows.schema.field(name).type == contracts.IMPRESSIONS.field(name).type
        assert rows[name].null_count == values.null_count


def sample(kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return dt.date(2018, 5, 1) if pa.types.is_date(kind) else dt.datetime(2018, 5, 1)
    if pa.types.is_nested(kind):
        return {"a": "x"} if pa.types.is_struct(kind) else [("a", "x")] if pa.types.is_map(kind) else ["x"]
    if pa.types.is_binary(kind):
        return b"x"
    if pa.types.is_duration(kind):
        return dt.timedelta(seconds=1)
    if pa.types.is_time(kind):
        return dt.time(1)
    texts = pa.types.is_dictionary(kind) or "string" in str(kind)
    return "x" if texts else np.float16(1) if kind == pa.float16() else 1
