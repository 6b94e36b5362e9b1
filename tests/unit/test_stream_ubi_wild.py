"""UBI logs as shops write them: no impression events, other names and forms, browse pages; and what cannot be right."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serm import contracts, stream
from serm.errors import UserError
from serm.settings import Settings

MakeSettings = Callable[..., Settings]
Record = dict[str, Any]
LENIENT = {"max_quarantined_share": 1.0}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")


def at(second: float) -> str:
    return f"2018-03-04T10:{int(second) // 60:02d}:{second % 60:06.3f}Z"


def search(query_id: str = "q1", query: str | None = "lamp", second: float = 0, **fields: Any) -> Record:
    return {"query_id": query_id, "user_query": query, "client_id": "ann", "timestamp": at(second), **fields}


def event(action: str, doc_id: Any, ordinal: Any = None, query_id: str | None = "q1", **fields: Any) -> Record:
    """An event as of UBI 1.2: it names its query, and leaves the text to the query's own record."""
    position = {"xy": {"x": 3, "y": 9}} if ordinal is None else {"ordinal": ordinal}
    attributes = {"object": {"object_id": doc_id, "object_id_field": "asin"}, "position": position}
    event = {"action_name": action, "query_id": query_id, "client_id": "ann", "timestamp": at(5)}
    return {**event, "event_attributes": attributes, **fields}


def run(folder: Path, records: list[Record], params: Settings) -> dict[str, Any]:
    """Ingest a log of ``records`` and return ingest.json."""
    log = folder / "ubi.ndjson"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    stream.ingest(log, folder / "out", params)
    return json.loads((folder / "out/ingest.json").read_text())


def hashed(name: str) -> str:
    return hmac.new(b"a secret of the tests", name.encode(), "sha256").hexdigest()[:32]


ID_OF = {hashed(name): name for name in ("q1", "q2", "q9", "b1", "b2")}


def shown(folder: Path) -> dict[tuple[str, str], tuple[int, bool]]:
    """(query, document) -> its position and whether it was clicked."""
    rows = contracts.read(folder / "out/impressions", contracts.IMPRESSIONS).to_pylist()
    return {(ID_OF[row["query_id"]], row["doc_id"]): (row["position"], row["clicked"]) for row in rows}


def reasons(folder: Path) -> list[str]:
    return contracts.read(folder / "out/bad_lines", contracts.BAD_LINES)["reason"].to_pylist()


@pytest.mark.parametrize("field", ["query_response_hit_ids", "query_response_object_ids", "query_response_objects_ids"])
def test_what_a_query_returned_was_shown_in_its_order_where_no_event_says_so(
    field: str, make_settings: MakeSettings, tmp_path: Path
) -> None:
    log = [search(**{field: ["a", "b", 3]}), event("click", "b"), search("q2", "rug", **{field: []})]
    summary = run(tmp_path, log, make_settings())
    assert shown(tmp_path) == {("q1", "a"): (1, False), ("q1", "b"): (2, True), ("q1", "3"): (3, False)}
    assert summary["impressions_by_results"] == 3
    assert summary["lines"]["rows_in"] == 3


def test_each_query_is_told_by_its_own_impression_events_if_it_has_any(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    results = {"query_response_hit_ids": ["a", "b", "c"]}
    log = [search(**results), search("q2", **results), event("impression", "b", 0), event("purchase", "c")]
    run(tmp_path, log, make_settings())
    told = {("q1", "b"): (1, False), ("q1", "c"): (3, True)}
    assert shown(tmp_path) == {**told, ("q2", "a"): (1, False), ("q2", "b"): (2, False), ("q2", "c"): (3, False)}


def test_later_pages_and_other_texts_under_one_query_id_keep_the_positions_true(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    log = [
        {**search("q1", text, second), "query_response_hit_ids": hits, "query": request}
        for text, second, hits, request in [
            ("lamp", 0, ["a", "b"], '{"size": 2}'),
            ("lamp", 9, ["c", "d"], '{"from": 2, "size": 2}'),
            ("lamp oil", 20, ["x"], '{"from": 0}'),
            ("lamp", 30, ["e"], "title:lamp"),
        ]
    ]
    run(tmp_path, log, make_settings())
    positions = {doc_id: position for (_, doc_id), (position, _) in shown(tmp_path).items()}
    assert positions == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 1}


def test_results_belong_to_who_clicked_where_the_query_names_no_client(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    results = {"query_response_hit_ids": ["a", "b"], "client_id": None}
    log = [search(**results), search("q2", **results), event("click", "b", session_id="s1")]
    warnings = run(tmp_path, log, make_settings())["warnings"]
    rows = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS).to_pylist()
    assert [(row["doc_id"], row["session_id"]) for row in rows] == [("a", hashed("s1")), ("b", hashed("s1"))]
    assert len({row["user_id"] for row in rows}) == 1
    assert any(warning.startswith("1 queries tell what they returned, but") for warning in warnings)


def test_the_schemas_own_actions_are_clicks(make_settings: MakeSettings, tmp_path: Path) -> None:
    actions = ["click", "click_through", "view", "watch", "add_to_cart", "purchase", "item_click"]
    log = [search(), *(event("impression", action, place) for place, action in enumerate(actions))]
    summary = run(tmp_path, [*log, *(event(action, action, 0) for action in actions)], make_settings())
    assert (summary["lines"]["shown"], summary["lines"]["clicked"]) == (7, 7)
    assert shown(tmp_path) == {("q1", action): (place, True) for place, action in enumerate(actions, 1)}


def test_which_actions_show_and_click_is_a_setting(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = [search(), event("view", "a", 0), event("view", "b", 1), event("open", "b", 1)]
    run(tmp_path, log, make_settings(stream={"shown": ["view"], "clicked": ["open"]}))
    assert shown(tmp_path) == {("q1", "a"): (1, False), ("q1", "b"): (2, True)}


def test_an_action_that_shows_and_clicks_is_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match="'view': in more than one of shown, clicked and disliked"):
        make_settings(stream={"shown": ["impression", "view"]})


def test_an_ordinal_is_read_in_all_its_forms(make_settings: MakeSettings, tmp_path: Path) -> None:
    forms = [
        (2, 3),
        ("2", 3),
        (2.0, 3),
        ("3.0", 4),
        ({"index": 2}, 3),
        ({"index": "2.0"}, 3),
        (0, 1),
        ({"index": 0}, 1),
    ]
    run(
        tmp_path, [search(), *(event("impression", str(n), form) for n, (form, _) in enumerate(forms))], make_settings()
    )
    assert shown(tmp_path) == {("q1", str(n)): (position, False) for n, (_, position) in enumerate(forms)}


def test_what_is_no_ordinal_is_quarantined_even_if_the_document_was_shown(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    wrong = [-1, 2.5, "third", "NaN", "inf", 1e300, True, [1], {"index": -1}, {"index": "x"}]
    log = [search(), *(event("impression", str(place), place) for place in range(len(wrong)))]
    clicks = [event("click", str(place), ordinal) for place, ordinal in enumerate(wrong)]
    assert run(tmp_path, [*log, *clicks], make_settings(stream=LENIENT))["lines"]["quarantined"] == len(wrong)
    assert [reason[:36] for reason in reasons(tmp_path)] == ["event_attributes.position.ordinal is"] * len(wrong)
    assert shown(tmp_path) == {("q1", str(place)): (place + 1, False) for place in range(len(wrong))}


def test_ordinals_may_begin_at_1_and_then_0_is_none(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = [search(), event("impression", "a", 1), event("click", "b", 2), event("click", "c", 0)]
    run(tmp_path, log, make_settings(stream={"first_ordinal": 1, **LENIENT}))
    assert shown(tmp_path) == {("q1", "a"): (1, False), ("q1", "b"): (2, True)}
    assert reasons(tmp_path) == ["event_attributes.position.ordinal is no whole number from 1"]


def test_what_has_no_position_takes_it_from_its_querys_impression_of_the_document(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    actions = ["add_to_cart", "purchase", "click"]
    log = [search(), *(event("impression", action, place) for place, action in enumerate(actions, 4))]
    log += [search("q2"), *(event("impression", action, 9, "q2") for action in actions)]
    log += [event(action, doc_id) for action in actions for doc_id in (action, "unseen")]
    run(tmp_path, log, make_settings(stream=LENIENT))
    clicked = {("q1", action): (place, True) for place, action in enumerate(actions, 5)}
    assert shown(tmp_path) == clicked | {("q2", action): (10, False) for action in actions}
    missing = "event_attributes.position.ordinal is missing, and nothing else tells where its query showed the document"
    assert reasons(tmp_path) == [missing] * 3


def test_where_a_document_was_shown_is_its_position_not_where_it_lay_in_the_cart(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(tmp_path, [search(), event("impression", "a", 6), event("purchase", "a", 0)], make_settings())
    assert shown(tmp_path) == {("q1", "a"): (7, True)}


def test_several_documents_of_one_event_stand_one_after_the_other(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = [
        search(),
        event("impression", ["a", "b", "", None], 3),
        event("impression", ["c"], 5),
        event("purchase", ["b", "a"]),
    ]
    assert run(tmp_path, log, make_settings())["lines"]["rows_in"] == 4
    assert shown(tmp_path) == {("q1", "a"): (4, True), ("q1", "b"): (5, True), ("q1", "c"): (6, False)}
    nothing = [event("click", ids, 0) for ids in ([], [""], {"id": "a"}, None)]
    run(tmp_path, [*log, *nothing], make_settings(stream=LENIENT))
    assert reasons(tmp_path) == ["event_attributes.object.object_id is missing"] * 4


def test_browse_pages_are_other_and_not_quarantined(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = [search(), event("impression", "a", 0), event("click", "x", 0, None)]
    for name, text in (("none", None), ("empty", ""), ("blank", " \t")):
        log += [search(f"b-{name}", text, query_response_hit_ids=["x", "y"]), event("click", "x", 0, f"b-{name}")]
        log += [event(action, "z", 0, f"e-{name}", user_query=text) for action in ("impression", "click")]
    lines = run(tmp_path, log, make_settings())["lines"]
    assert (lines["other"], lines["quarantined"]) == (13, 0)
    assert shown(tmp_path) == {("q1", "a"): (1, False)}


def test_positions_are_bounded(make_settings: MakeSettings, tmp_path: Path) -> None:
    deep = [event("click", "b", 2_000_000_000), event("click", "c", 3), event("impression", ["d", "e"], 2)]
    log = [search(), event("impression", "a", 2), *deep, search("q2", query_response_hit_ids=list("abcde"))]
    run(tmp_path, log, make_settings(stream={"max_position": 3, **LENIENT}))
    kept = {("q1", "a"): (3, False), ("q2", "a"): (1, False), ("q2", "b"): (2, False), ("q2", "c"): (3, False)}
    assert shown(tmp_path) == kept
    assert reasons(tmp_path) == ["event_attributes.position.ordinal is beyond stream.max_position = 3"] * 3


PAGE = [search(), *(event("impression", f"d{n}", n) for n in range(3)), event("click", "d1")]
BOB = {"query_id": "q9", "client_id": "bob"}
OTHER_USER = [search(**BOB), event("impression", "d0", 0, **BOB)]
TAPPED = [*PAGE[:4], event("tap\x1b[31m", "d1"), *OTHER_USER]
CLICKED = [search(), event("click", "a", 0), search(**BOB), event("click", "a", 0, **BOB)]
FROM_1 = [
    search(),
    event("impression", "a", 1),
    event("click", "b", 2),
    search(**BOB),
    event("impression", "a", 1, **BOB),
]
SAYS = [
    (PAGE + OTHER_USER, []),
    (PAGE, ["all impressions are one user's"]),
    (
        TAPPED,
        ['nothing was clicked: name the log\'s clicks in stream.clicked (its other actions: "tap\\u001b[31m")'],
    ),
    (
        CLICKED,
        [
            "all 2 impressions were clicked, so that nothing tells what users passed by: the log lacks what was shown, "
            "stream.shown does not name it, or stream.clicked does"
        ],
    ),
    (
        FROM_1,
        [
            "0 impressions stand at position 1, 2 at position 2: "
            "if the log's ordinals begin at 1, set stream.first_ordinal to 1"
        ],
    ),
]


@pytest.mark.parametrize(("log", "warnings"), SAYS)
def test_a_window_that_cannot_be_right_is_said(
    log: list[Record], warnings: list[str], make_settings: MakeSettings, tmp_path: Path
) -> None:
    assert run(tmp_path, log, make_settings())["warnings"] == warnings


def test_a_window_in_parquet_is_looked_at_too(
    make_impressions: Callable[..., Any], make_settings: MakeSettings, tmp_path: Path
) -> None:
    import pyarrow as pa

    log = make_impressions()
    nobody = pa.array([False] * log.num_rows)
    log = log.set_column(log.schema.get_field_index("clicked"), log.schema.field("clicked"), nobody)
    contracts.write(log, tmp_path / "log", contracts.IMPRESSIONS)
    figures = stream.ingest(tmp_path / "log", tmp_path / "out", make_settings())
    assert json.loads((tmp_path / "out/ingest.json").read_text())["warnings"] == ["nothing was clicked"]
    assert figures["warnings"] == 1


def test_the_command_line_prints_warnings_on_stderr_only(tmp_path: Path) -> None:
    (tmp_path / "log.ndjson").write_text("".join(json.dumps(record) + "\n" for record in PAGE))
    (tmp_path / "params.yaml").write_text("cycle: {start: '2018-01-01T00:00:00Z', end: '2019-01-01T00:00:00Z'}\n")
    command = [sys.executable, "-c", "from serm.cli import main; main()", "ingest", "--log", "log.ndjson", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["warnings"] == 1
    assert done.stderr.splitlines() == [f"serm: {tmp_path / 'log.ndjson'}: all impressions are one user's."]


def test_a_log_without_one_good_line_is_refused_whatever_the_limit(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ubi\.ndjson: 2 of 2 lines .*out/bad_lines has file, line and reason"):
        run(tmp_path, [{"foo": 1}, {"foo": 2}], make_settings(stream=LENIENT))
    assert len(reasons(tmp_path)) == 2


def test_a_log_that_shows_nothing_says_which_actions_it_has(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = [search(), event("tap", "a", 0), event("tap", "b", 0), event("hover", "a", 0)]
    with pytest.raises(UserError, match=r"no line shows a document \(1 query, 3 other\); .*\"tap\", \"hover\""):
        run(tmp_path, log, make_settings())


TEXTS = st.sampled_from(["lamp", "", " ", None, 7, "l\u0000", "ł"])
IDS = st.sampled_from(["q1", "q2", "q3", "", None])
DOCUMENTS = st.sampled_from(["a", "b", "", None, 5, ["a", "b"], ["c"], [], {"id": 1}, "[1]"])
ORDINALS = st.sampled_from(
    [0, 1, 2.0, "3.0", {"index": 2}, {}, "{", None, -1, 1.5, "x", 999, 1000, 2**31, 1e300, "NaN"]
)
HITS = st.sampled_from([None, [], ["a", "b"], [1, None, ""], "abc", {"a": 1}, [["x"]], ["a"] * 2000])
TIMES = st.sampled_from([at(0), at(9), 1520157600000, "yesterday", None, "2017-01-01T00:00:00Z", at(0)[:-1]])
CLIENTS = st.sampled_from(["ann", "bob", "", None])
ACTIONS = st.sampled_from(["impression", "click", "view", "dismiss", "hover", "", None])
QUERIES = st.fixed_dictionaries(
    {"query_id": IDS, "client_id": CLIENTS, "timestamp": TIMES},
    optional={
        "user_query": TEXTS,
        "query_response_hit_ids": HITS,
        "query_response_object_ids": HITS,
        "query": st.sampled_from(['{"from": 5}', '{"from": -1}', '{"from": 9e99}', "{", {"from": 2}, 3]),
        "query_attributes": st.sampled_from([{}, {"locale": "de"}, [], "x"]),
    },
)
PLACES = st.one_of(st.fixed_dictionaries({"ordinal": ORDINALS}), st.sampled_from([{}, 3, None, {"xy": {"x": 1}}]))
ATTRIBUTES = st.fixed_dictionaries(
    {}, optional={"object": st.fixed_dictionaries({"object_id": DOCUMENTS}), "position": PLACES}
)
EVENTS = st.fixed_dictionaries(
    {"action_name": ACTIONS, "query_id": IDS, "client_id": CLIENTS, "timestamp": TIMES},
    optional={
        "user_query": TEXTS,
        "message_type": st.sampled_from(["QUERY", "INFO"]),
        "message": TEXTS,
        "event_attributes": st.one_of(ATTRIBUTES, st.sampled_from([None, [], "x"])),
    },
)
ACTION_LINES = st.sampled_from([b'{"index": {"_index": "ubi_events"}}', b'{"create": {}}'])
JUNK = st.sampled_from([b"{", b"[]", b"3", b'{"foo": 1}', b"\xff", b"", b"  ", b'{"query_id": "q\\u0000"}'])
LINES = st.one_of(
    EVENTS.map(lambda r: json.dumps(r).encode()), QUERIES.map(lambda r: json.dumps(r).encode()), JUNK, ACTION_LINES
)


@settings(max_examples=examples(20), suppress_health_check=list(HealthCheck))
@given(log=st.lists(LINES, max_size=40), first_ordinal=st.sampled_from([0, 1]))
def test_every_line_is_kept_other_duplicate_or_in_quarantine(
    log: list[bytes], first_ordinal: int, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    # One good page, so that there is something to keep.
    good = [json.dumps(record).encode() for record in (search("good"), event("impression", "a", 1, "good"))]
    (folder / "log.ndjson").write_bytes(b"\n".join([*good, *log]))
    figures = stream.ingest(
        folder / "log.ndjson", folder / "out", make_settings(stream={"first_ordinal": first_ordinal, **LENIENT})
    )
    records = [line for line in [*good, *log] if line.strip() and not line.startswith((b'{"index"', b'{"create"'))]
    fates = ("query", "shown", "clicked", "disliked", "other", "duplicate", "quarantined")
    assert figures["lines_rows_in"] == len(records) == sum(int(figures[f"lines_{fate}"]) for fate in fates)
    assert len(reasons(folder)) == figures["lines_quarantined"]
    gone = ("rows_outside_window", "rows_duplicate", "rows_late", "rows_withheld")
    kept = contracts.read(folder / "out/impressions", contracts.IMPRESSIONS)
    assert figures["rows_in"] == kept.num_rows + sum(int(figures[name]) for name in gone)
    assert all(1 <= position <= 1000 for position in kept["position"].to_pylist())
    assert all(query.strip() for query in kept["query"].to_pylist())
