"""Windows: late rows are told by the watermark, and a delivery that comes again changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serm import contracts, stream
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
NOON = datetime(2018, 6, 1, 12, tzinfo=UTC)


def with_hours(table: pa.Table, hours: list[float]) -> pa.Table:
    """The first rows of ``table``, each so many hours after noon."""
    times = pa.array([NOON + timedelta(hours=hour) for hour in hours], table.schema.field("event_time").type)
    return table[: len(hours)].set_column(0, table.schema.field("event_time"), times)


def run(folder: Path, deliveries: list[pa.Table], params: Settings) -> dict[str, Any]:
    (folder / "log").mkdir(parents=True)
    for number, delivery in enumerate(deliveries):
        pq.write_table(delivery, folder / f"log/{number}.parquet")
    stream.ingest(folder / "log", folder / "out", params)
    return json.loads((folder / "out/ingest.json").read_text())


def hours(folder: Path, dataset: str) -> list[float]:
    times = contracts.read(folder / "out" / dataset, contracts.IMPRESSIONS)["event_time"].to_pylist()
    return [(time - NOON) / timedelta(hours=1) for time in times]


def test_a_row_behind_the_watermark_of_earlier_deliveries_is_late(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    first, second = with_hours(table, [0, 10, -5]), with_hours(table[5:], [20, 8, 7.99, 0])
    summary = run(tmp_path, [first, second], make_settings(stream={"allowed_lateness_hours": 2}))
    assert hours(tmp_path, "impressions") == [-5, 0, 8, 10, 20]
    assert hours(tmp_path, "late") == [0, 7.99]
    assert (summary["rows_in"], summary["rows_kept"], summary["rows_late"]) == (7, 5, 2)


def test_without_a_bound_no_row_is_late(make_impressions: Make, make_settings: MakeSettings, tmp_path: Path) -> None:
    table = make_impressions()
    summary = run(tmp_path, [with_hours(table, [0, 10]), with_hours(table[5:], [-100])], make_settings())
    assert (summary["rows_kept"], summary["rows_late"]) == (3, 0)
    assert not (tmp_path / "out/late").exists()


@pytest.mark.parametrize("lateness", [None, 1.0])
def test_a_delivery_that_comes_again_is_counted_and_changes_nothing(
    lateness: float | None, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    params = make_settings(stream={"allowed_lateness_hours": lateness})
    once = run(tmp_path / "once", [table], params)
    again = run(tmp_path / "again", [table, table[:200]], params)
    assert again["rows_duplicate"] == 200
    assert again["rows_in"] == once["rows_in"] + 200
    file = "out/impressions/part-0.parquet"
    assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_sessions_of_a_parquet_log_without_any_end_with_a_pause(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = with_hours(make_impressions(), [0, 0.4, 0.95])
    table = table.set_column(2, "session_id", pa.nulls(3, pa.string())).set_column(3, "user_id", pa.array(["u"] * 3))
    run(tmp_path, [table], make_settings())
    sessions = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)["session_id"].to_pylist()
    start = int(NOON.timestamp())
    assert sessions == [f"u-{start}", f"u-{start}", f"u-{start + int(0.95 * 3600)}"]


def test_rows_of_one_time_are_in_one_session(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=400)
    size = table.num_rows
    no_session = table.set_column(2, "session_id", pa.nulls(size, pa.string()))
    run(tmp_path, [no_session.set_column(3, "user_id", pa.array(["u"] * size))], make_settings())
    kept = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS)
    session_of = set(zip(kept["event_time"].to_pylist(), kept["session_id"].to_pylist(), strict=True))
    assert len(session_of) == len({time for time, _ in session_of}) > 300


def test_a_late_row_of_a_rare_query_is_withheld_too(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """Three users typed ``common`` in time; the users that came late do not make ``secret`` common."""
    hour_of = [10, 10, 10, 0, 0, 0, 0]
    queries = ["common"] * 4 + ["secret"] * 3
    table = with_hours(make_impressions(), hour_of)
    for name, values in (("query", queries), ("locale", ["en"] * 7), ("user_id", [f"u{n}" for n in range(7)])):
        index = table.column_names.index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values))
    params = make_settings(stream={"allowed_lateness_hours": 2, "min_query_users": 3})
    summary = run(tmp_path, [table[:3], table[3:]], params)
    late = contracts.read(tmp_path / "out/late", contracts.IMPRESSIONS)
    assert late["query"].to_pylist() == ["common"]
    assert (summary["rows_kept"], summary["rows_late"], summary["rows_withheld"]) == (3, 1, 3)
