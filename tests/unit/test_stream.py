"""Ingest: a window is cut exactly, every row is accounted for, and the same log gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import contracts, stream
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
WINDOW = (datetime(2018, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))


def with_column(table: pa.Table, name: str, values: object) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, name, pa.array(values))


def write_log(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@settings(max_examples=examples(15))
@given(offsets=st.lists(st.integers(-(10**9), 2 * 10**9), min_size=1, max_size=5))
def test_rows_in_are_rows_kept_and_rows_outside(
    offsets: list[int], make_impressions: Make, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    times = [WINDOW[0], *(WINDOW[0] + timedelta(seconds=offset) for offset in offsets)]
    table = with_column(make_impressions(searches=2)[: len(times)], "event_time", times)
    figures = stream.ingest(write_log(folder / "log.parquet", table), folder / "out", make_settings())
    inside = sum(WINDOW[0] <= time < WINDOW[1] for time in times)
    assert figures["rows_in"] == len(times)
    assert figures["rows_kept"] == inside == contracts.read(folder / "out/impressions", contracts.IMPRESSIONS).num_rows
    assert figures["rows_outside_window"] == len(times) - inside


def test_the_window_is_half_open(make_impressions: Make, make_settings: MakeSettings, tmp_path: Path) -> None:
    tick = timedelta(microseconds=1)
    times = [WINDOW[0] - tick, WINDOW[0], WINDOW[1] - tick, WINDOW[1]]
    log = write_log(tmp_path / "log.parquet", with_column(make_impressions()[:4], "event_time", times))
    stream.ingest(log, tmp_path / "out", make_settings())
    kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
    assert kept["event_time"].to_pylist() == [WINDOW[0], WINDOW[1] - tick]


def test_one_file_and_shuffled_partitions_give_the_same_bytes(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    whole = write_log(tmp_path / "whole/log.parquet", table)
    write_log(tmp_path / "log/window=1/a.parquet", shuffled[:700])
    write_log(tmp_path / "log/window=2/b.parquet", shuffled[700:])
    stream.ingest(whole, tmp_path / "one", make_settings())
    stream.ingest(tmp_path / "log", tmp_path / "two", make_settings(engine={"threads": 1}))
    for file in ("ingest.json", "impressions/part-0.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    kept = contracts.read(tmp_path / "one/impressions", contracts.IMPRESSIONS)
    assert kept == kept.sort_by([(name, "ascending") for name in ("event_time", "session_id", "position")])


def test_the_summary_counts_locales_and_queries(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    stream.ingest(write_log(tmp_path / "log.parquet", table), tmp_path / "out", make_settings())
    summary = json.loads((tmp_path / "out/ingest.json").read_text())
    assert summary["locales"] == {row["values"]: row["counts"] for row in table["locale"].value_counts().to_pylist()}
    assert summary["queries"] == len(set(zip(table["locale"].to_pylist(), table["query"].to_pylist(), strict=True)))


def test_a_row_without_time_is_left_to_validation(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = with_column(make_impressions(searches=1), "event_time", [None, *[WINDOW[0]] * 4])
    figures = stream.ingest(write_log(tmp_path / "log.parquet", table), tmp_path / "out", make_settings())
    assert figures["rows_kept"] == 5


def test_numbers_of_another_width_and_times_of_another_unit_are_taken(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    wide = with_column(table, "position", table["position"].cast(pa.int64()).combine_chunks())
    wide = with_column(wide, "event_time", pc.cast(table["event_time"], pa.timestamp("ms", "UTC")).combine_chunks())
    stream.ingest(write_log(tmp_path / "log.parquet", wide), tmp_path / "out", make_settings())
    assert contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS).num_rows == table.num_rows


def no_rows(table: pa.Table) -> pa.Table:
    return table[:0]


def no_query(table: pa.Table) -> pa.Table:
    return table.drop_columns("query")


def text_position(table: pa.Table) -> pa.Table:
    return with_column(table, "position", ["first"] * table.num_rows)


def other_time(table: pa.Table) -> pa.Table:
    return with_column(table, "event_time", [datetime(2030, 5, 6, tzinfo=UTC)] * table.num_rows)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_rows, ["log.parquet", "no rows", "cycle.start"]),
        (no_query, ["log.parquet", "'query' is missing", "event_time"]),
        (text_position, ["log.parquet", "'position' is string", "int32"]),
        (other_time, ["log.parquet", "2030-05-06", "cycle.end"]),
    ],
)
def test_a_wrong_log_is_explained_and_what_was_there_stays(
    spoil: Callable[[pa.Table], pa.Table],
    words: list[str],
    make_impressions: Make,
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/before.txt").write_text("kept")
    log = write_log(tmp_path / "log.parquet", spoil(make_impressions()))
    with pytest.raises(UserError) as raised:
        stream.ingest(log, tmp_path / "out", make_settings())
    assert all(word in str(raised.value) for word in words)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["before.txt", "log.parquet", "out"]


def test_no_log_at_all_is_explained(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no Parquet files"):
        stream.ingest(tmp_path / "nowhere", tmp_path / "out", make_settings())
