"""UBI logs: what each record becomes, that no line is lost, and that bad files are told with file, line and reason."""

from __future__ import annotations

import gzip
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serm import contracts, stream
from serm.errors import UserError
from serm.settings import Settings

MakeSettings = Callable[..., Settings]
SAMPLE = Path(__file__).parents[1] / "data/ubi-sample/ubi_bulk.ndjson.gz"
LENIENT = {"max_quarantined_share": 1.0}
BULK_ACTION = {"index": {"_index": "ubi_events", "_id": "1"}}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")


def at(second: float) -> str:
    return f"2018-03-04T10:{int(second) // 60:02d}:{second % 60:06.3f}Z"


def search(query_id: str = "q1", query: str = "lamp", second: float = 0, **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "user_query": query, "client_id": "ann", "timestamp": at(second), **fields}


def event(action: str, doc_id: str = "d1", ordinal: int = 0, second: float = 1, **fields: Any) -> dict[str, Any]:
    return {
        "action_name": action,
        "query_id": "q1",
        "client_id": "ann",
        "session_id": "s1",
        "timestamp": at(second),
        "event_attributes": {"object": {"object_id": doc_id}, "position": {"ordinal": ordinal}},
        **fields,
    }


GOOD = [search(), event("impression"), event("impression", "d2", 1), event("click", "d2", 1, 5)]


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def run(folder: Path, content: bytes, params: Settings, name: str = "log.ndjson") -> dict[str, Any]:
    """Ingest a log of ``content`` in ``folder`` and return ingest.json."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    (folder / "log" / name).write_bytes(content)
    stream.ingest(folder / "log", folder / "out", params)
    return json.loads((folder / "out/ingest.json").read_text())


def impressions(folder: Path) -> dict[str, dict[str, Any]]:
    table = contracts.read(folder / "out/impressions", contracts.IMPRESSIONS)
    return {row["doc_id"]: row for row in table.to_pylist()}


def bad(folder: Path) -> list[tuple[str, int, str]]:
    rows = contracts.read(folder / "out/bad_lines", contracts.BAD_LINES).to_pylist()
    return [(row["file"], row["line"], row["reason"]) for row in rows]


def test_shown_documents_become_impressions_with_positions_from_1(make_settings: MakeSettings, tmp_path: Path) -> None:
    run(tmp_path, lines(GOOD), make_settings())
    rows = impressions(tmp_path)
    assert {doc: (row["position"], row["clicked"], row["query"], row["locale"]) for doc, row in rows.items()} == {
        "d1": (1, False, "lamp", "en"),
        "d2": (2, True, "lamp", "en"),
    }
    assert rows["d1"]["event_time"].isoformat() == "2018-03-04T10:00:01+00:00"
    for column, raw in (("user_id", b"ann"), ("session_id", b"s1"), ("query_id", b"q1")):
        hashed = hmac.new(b"a secret of the tests", raw, "sha256").hexdigest()[:32]
        assert {row[column] for row in rows.values()} == {hashed}


def test_who_acts_on_a_document_was_shown_it_and_clicked(make_settings: MakeSettings, tmp_path: Path) -> None:
    actions = ["click", "add_to_cart", "purchase"]
    log = [search(), *(event(action, action, place) for place, action in enumerate(actions, 4))]
    run(tmp_path, lines(log), make_settings())
    found = {doc_id: (row["clicked"], row["position"]) for doc_id, row in impressions(tmp_path).items()}
    assert found == {action: (True, place) for place, action in enumerate(actions, 5)}


def test_a_dismissal_is_negative_feedback_and_no_click(make_settings: MakeSettings, tmp_path: Path) -> None:
    run(tmp_path, lines([*GOOD, event("dismiss", "d1", 0, 9)]), make_settings())
    assert impressions(tmp_path)["d1"]["negative_feedback"]
    assert not impressions(tmp_path)["d1"]["clicked"]


def test_dwell_runs_from_the_click_to_the_next_event_on_anything_else(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    after = [event("add_to_cart", "d2", 1, 20), event("impression", "d3", 2, 35.25)]
    run(tmp_path, lines([*GOOD, *after]), make_settings())
    assert impressions(tmp_path)["d2"]["dwell_seconds"] == pytest.approx(30.25)
    assert impressions(tmp_path)["d1"]["dwell_seconds"] is None


def test_a_click_is_so_many_seconds_after_what_the_page_showed_first(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(tmp_path, lines([*GOOD, event("click", "d2", 1, 9), event("click", "d4", 3, 7.5)]), make_settings())
    found = {doc_id: row["click_seconds"] for doc_id, row in impressions(tmp_path).items()}
    assert found == {"d1": None, "d2": pytest.approx(4), "d4": pytest.approx(6.5)}


def test_a_click_before_which_nothing_was_told_of_its_page_has_no_time(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(tmp_path, lines([search(), event("click", "d9", 4)]), make_settings())
    assert impressions(tmp_path)["d9"]["clicked"]
    assert impressions(tmp_path)["d9"]["click_seconds"] is None


def test_a_click_that_ends_a_session_has_no_dwell(make_settings: MakeSettings, tmp_path: Path) -> None:
    late = event("impression", "d3", 2, 5 + 31 * 60)
    run(tmp_path, lines([*GOOD, late]), make_settings())
    assert impressions(tmp_path)["d2"]["dwell_seconds"] is None


def test_bulk_and_gzip_and_any_order_and_a_second_delivery_change_nothing(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(tmp_path / "plain", lines(GOOD), make_settings())
    bulk = lines([line for record in reversed(GOOD) for line in (BULK_ACTION, record)])
    run(tmp_path / "bulk", gzip.compress(bulk), make_settings(), "log.ndjson.gz")
    (tmp_path / "twice/log").mkdir(parents=True)
    (tmp_path / "twice/log/again.jsonl").write_bytes(lines(GOOD[2:]))
    summary = run(tmp_path / "twice", lines(GOOD), make_settings())
    assert summary["lines"]["duplicate"] == 2
    one = (tmp_path / "plain/out/impressions/part-0.parquet").read_bytes()
    assert one == (tmp_path / "bulk/out/impressions/part-0.parquet").read_bytes()
    assert one == (tmp_path / "twice/out/impressions/part-0.parquet").read_bytes()


def test_the_query_may_stand_in_the_event_or_in_its_message(make_settings: MakeSettings, tmp_path: Path) -> None:
    typed = {
        "action_name": "on_search",
        "query_id": "q2",
        "message_type": "QUERY",
        "message": "rug",
        "client_id": "bob",
    }
    log = [
        event("impression", user_query="lamp"),
        {**typed, "timestamp": 1520157600000},
        event("click", "d2", 3, 8, query_id="q2"),
    ]
    assert run(tmp_path, lines(log), make_settings())["lines"]["other"] == 1
    assert {doc: row["query"] for doc, row in impressions(tmp_path).items()} == {"d1": "lamp", "d2": "rug"}


def test_sessions_end_with_a_pause_where_the_log_has_none(make_settings: MakeSettings, tmp_path: Path) -> None:
    times = [0, 29 * 60, 59 * 60 + 1]
    log = [search(), *(event("impression", f"d{n}", n, second, session_id=None) for n, second in enumerate(times))]
    run(tmp_path, lines(log), make_settings())
    rows = impressions(tmp_path)
    assert rows["d0"]["session_id"] == rows["d1"]["session_id"] != rows["d2"]["session_id"]
    assert all("ann" not in row["session_id"] + row["user_id"] for row in rows.values())


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{not json", "not JSON"),
    (b"[1, 2]", "not a JSON object"),
    (b'{"query_id": "q1", "user_query": "\xff"}', "not UTF-8"),
    (b'{"query_id": "q\0"}', "holds a NUL byte"),
    (b'{"query_id": "q\\u0000"}', "holds a NUL byte"),
    (b'{"foo": 1}', "neither a query (user_query) nor an event (action_name)"),
    (lines([search(timestamp="yesterday")]), "timestamp is missing or no time"),
    (lines([search(query_id="")]), "query_id is missing"),
    (lines([event("click", query_id="unseen")]), "no query text is known for its query_id"),
    (lines([event("click", client_id=None)]), "client_id is missing"),
    (lines([event("click", doc_id="")]), "event_attributes.object.object_id is missing"),
    (lines([event("click", ordinal=-1)]), "event_attributes.position.ordinal is no whole number from 0"),
    (
        lines([event("click", event_attributes={"object": {"object_id": "d"}})]),
        "event_attributes.position.ordinal is missing, and nothing else tells where",
    ),
]


def test_a_bad_line_goes_to_quarantine_and_the_run_goes_on(make_settings: MakeSettings, tmp_path: Path) -> None:
    wrong = b"".join(line.rstrip() + b"\n\n" for line, _ in BAD_LINES)
    summary = run(tmp_path, lines(GOOD) + wrong + lines(GOOD[:1]), make_settings(stream=LENIENT))
    assert [(file, number) for file, number, _ in bad(tmp_path)] == [
        ("log.ndjson", 5 + 2 * place) for place in range(len(BAD_LINES))
    ]
    for (_, _, reason), (line, expected) in zip(bad(tmp_path), BAD_LINES, strict=True):
        assert reason.startswith(expected), line
    assert summary["lines"] == {
        **{"rows_in": 5 + len(BAD_LINES), "query": 1, "shown": 2, "clicked": 1, "disliked": 0, "other": 0},
        **{"duplicate": 1, "quarantined": len(BAD_LINES)},
    }
    assert summary["rows_kept"] == 2


def test_a_line_of_100_mb_is_quarantined_and_the_next_is_read(make_settings: MakeSettings, tmp_path: Path) -> None:
    huge = b'{"user_query": "' + b"x" * (100 << 20) + b'"}\n'
    run(tmp_path, lines(GOOD[:2]) + huge + lines(GOOD[2:]), make_settings(stream=LENIENT))
    assert bad(tmp_path) == [("log.ndjson", 3, "longer than 8 MB")]
    assert impressions(tmp_path)["d2"]["clicked"]


def test_of_a_truncated_gzip_all_whole_lines_are_read(make_settings: MakeSettings, tmp_path: Path) -> None:
    packed = gzip.compress(lines([*GOOD, *(event("impression", f"e{n}", n) for n in range(1000))]))
    summary = run(tmp_path, packed[: len(packed) // 2], make_settings(stream=LENIENT), "log.json.gz")
    (line,) = bad(tmp_path)
    assert line[0] == "log.json.gz"
    assert line[2].startswith("the gzip stream breaks off here")
    assert summary["lines"]["rows_in"] == line[1] > 100
    assert summary["rows_kept"] == summary["lines"]["shown"] == line[1] - 3
    assert "log.json.gz breaks off, and nobody knows what it lacks: bring it whole" in summary["warnings"]
    assert stream.look(tmp_path / "log", make_settings(stream=LENIENT)).warnings[0].startswith("log.json.gz breaks off")


def test_a_directory_named_like_a_file_is_read_as_a_directory(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "log/day.ndjson").mkdir(parents=True)
    (tmp_path / "log/day.ndjson/00.ndjson").write_bytes(lines(GOOD[:2]))
    run(tmp_path, lines([*GOOD[2:], {"foo": 1}]), make_settings(stream=LENIENT))
    assert sorted(impressions(tmp_path)) == ["d1", "d2"]
    assert bad(tmp_path)[0][:2] == ("log.ndjson", 3)


def test_an_empty_log_is_explained(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log: no impressions .* it has no rows"):
        run(tmp_path, b"", make_settings())


def test_too_many_bad_lines_stop_the_run_and_are_there_to_see(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log: 1 of 5 lines \(20\.0%\) .* stream\.max_quarantined_share = 19\.0%"):
        run(tmp_path, lines(GOOD) + b"?\n", make_settings(stream={"max_quarantined_share": 0.19}))
    assert bad(tmp_path) == [("log.ndjson", 5, "not JSON")]


def test_two_formats_in_one_directory_are_told(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"Parquet files and log\.ndjson"):
        run(tmp_path, lines(GOOD), make_settings())


def test_without_a_key_for_the_users_nothing_is_read(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERM_USER_KEY")
    with pytest.raises(UserError, match="SERM_USER_KEY is not set"):
        run(tmp_path, lines(GOOD), make_settings())


def test_the_chorus_sample_is_read_whole(make_settings: MakeSettings, tmp_path: Path) -> None:
    cycle = {"start": "2024-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
    stream.ingest(SAMPLE, tmp_path / "out", make_settings(cycle=cycle))
    summary = json.loads((tmp_path / "out/ingest.json").read_text())
    # Counted from the file: 1999 impression, 287 + 11 click, 234 + 6 cart and purchase events, 473 queries.
    with gzip.open(SAMPLE) as file:
        records = [record for record in map(json.loads, file) if "index" not in record]
    assert summary["lines"]["rows_in"] == len(records) == 3921
    assert summary["lines"]["duplicate"] == len(records) - len({json.dumps(record) for record in records}) == 1
    told = [
        {"user_query": record.get("message")} | record for record in records if record.get("message_type") == "QUERY"
    ]
    typed = [record for record in [*told, *records] if record.get("user_query")]
    # Within an application all times have one form, so that their texts are in the order of time.
    typed.sort(key=lambda record: (str(record["timestamp"]), record["user_query"]), reverse=True)
    known = {record["query_id"]: record["user_query"] for record in typed}
    on_documents = ("impression", "click", "item_click", "add_to_cart", "purchase")
    events = [record for record in records if record.get("action_name") in on_documents and record["query_id"] in known]
    pairs = {(record["query_id"], record["event_attributes"]["object"]["object_id"]) for record in events}
    assert len(pairs) == 2012
    # 22 queries have results and no impression event: 20 that nobody clicked, 2 with clicks, which read all clicked.
    shown = {record["query_id"] for record in events if record["action_name"] == "impression"}
    returned = {
        (record["query_id"], hit)
        for record in records
        if record["query_id"] not in shown and record.get("user_query") == known.get(record["query_id"])
        for hit in record.get("query_response_hit_ids") or ()
    }
    assert summary["impressions_by_results"] == len(returned) > 300
    assert summary["rows_kept"] == len(pairs | returned)


def test_of_the_shops_part_of_the_sample_it_is_said_that_its_ordinals_begin_at_1(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    cycle = {"start": "2024-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
    with gzip.open(SAMPLE) as file:
        shop = b"".join(line for line in file if b'"application": "Chorus"' in line)
    (tmp_path / "log.ndjson").write_bytes(shop)
    warnings = {}
    for first in (0, 1):
        stream.ingest(
            tmp_path / "log.ndjson", tmp_path / "out", make_settings(cycle=cycle, stream={"first_ordinal": first})
        )
        warnings[first] = json.loads((tmp_path / "out/ingest.json").read_text())["warnings"]
    assert [warning.endswith("set stream.first_ordinal to 1") for warning in warnings[0]] == [True]
    assert warnings[1] == []
