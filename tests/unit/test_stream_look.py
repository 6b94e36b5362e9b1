"""A look at a log proposes the settings that fit it, and warns of what cannot be right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serm import stream
from serm.errors import UserError
from serm.settings import Settings

MakeSettings = Callable[..., Settings]
SAMPLE = Path(__file__).parents[1] / "data/ubi-sample/ubi_bulk.ndjson.gz"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")


def log_of(folder: Path, *actions: tuple[str, int], query: str = "lamp {}") -> Path:
    """For each of ten queries a line, and for each action an event on the documents 0 to n - 1, ordinals from 1."""
    records: list[dict[str, Any]] = []
    for number in range(10):
        head = {"query_id": f"q{number}", "client_id": f"u{number}", "timestamp": f"2018-03-04T10:{number:02d}:00Z"}
        records.append({**head, "user_query": query.format(number)})
        for action, documents in actions:
            for n in range(documents):
                where = {"object": {"object_id": f"d{n}"}, "position": {"ordinal": n + 1}}
                records.append({**head, "action_name": action, "event_attributes": where})
    (folder / "log.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "log.ndjson"


def test_the_ubi_sample_needs_no_other_settings(make_settings: MakeSettings) -> None:
    seen = stream.look(SAMPLE, make_settings())
    assert seen.actions["impression"] == {"events": 1999, "on_queries": 1999, "on_documents": 1999, "ordinal": 0}
    assert (seen.settings, seen.warnings, seen.is_sample) == ({}, [], False)
    assert (seen.first or "").startswith("2024-06-04T19:02:42")
    assert seen.impressions > 1900
    assert 0 < seen.clicks < seen.impressions / 2
    assert json.loads(json.dumps(seen.told()))["locales"] == {"en": seen.impressions}


def test_other_names_of_actions_and_ordinals_from_1_are_proposed(make_settings: MakeSettings, tmp_path: Path) -> None:
    log = log_of(tmp_path, ("product_impression", 5), ("Tile_Click", 1), ("hover", 2))
    seen = stream.look(log, make_settings())
    default = make_settings().stream
    assert seen.settings == {
        "shown": (*default.shown, "product_impression"),
        "clicked": (*default.clicked, "Tile_Click"),
        "first_ordinal": 1,
    }
    assert (seen.impressions, seen.clicks, seen.warnings) == (50, 10, [])
    # Views that outnumber the clicks came into sight; nothing else says what was shown.
    seen = stream.look(log_of(tmp_path, ("view", 5), ("click", 1)), make_settings())
    assert "view" in seen.settings["shown"]
    assert "view" not in seen.settings["clicked"]


@pytest.mark.parametrize(
    ("actions", "query", "words"),
    [
        ([("impression", 3), ("hover", 2)], "lamp {}", 'nothing was clicked.*its other actions: "hover"'),
        ([("click", 2)], "lamp {}", "all 20 impressions were clicked"),
        ([("hover", 2)], "lamp {}", 'no line shows a document .*its other actions: "hover"'),
        ([("impression", 3), ("click", 1)], "a{}@example.com", "of 10 queries 10 are masked as personal data"),
    ],
)
def test_what_cannot_be_right_is_a_warning(
    actions: list[tuple[str, int]], query: str, words: str, make_settings: MakeSettings, tmp_path: Path
) -> None:
    warnings = stream.look(log_of(tmp_path, *actions, query=query), make_settings()).warnings
    assert re.search(words, " ".join(warnings)), warnings


def test_a_log_that_is_not_there_is_one_sentence(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or directory; give the log's path"):
        stream.look(tmp_path / "nowhere", make_settings())


VALUE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["click", "", "\ud800", "q1", "0", "\0"])
)
PLACE = st.fixed_dictionaries({}, optional={"ordinal": VALUE | st.dictionaries(st.just("index"), VALUE)})
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "query_id": VALUE,
        "action_name": VALUE | st.sampled_from(["impression", "click"]),
        "user_query": VALUE,
        "client_id": VALUE,
        "timestamp": VALUE | st.just("2018-03-04T10:00:00Z"),
        "event_attributes": VALUE
        | st.fixed_dictionaries(
            {}, optional={"object": VALUE | st.dictionaries(st.just("object_id"), VALUE), "position": VALUE | PLACE}
        ),
    },
)
LINE = RECORD.map(lambda record: json.dumps(record).encode()) | st.binary(max_size=40)


@hypothesis(max_examples=examples(8))
@given(lines=st.lists(LINE, max_size=8))
@example(lines=[b"\x1f\x8b"])  # a gzip stream that breaks off at once
def test_whatever_a_log_holds_a_look_tells_of_it_or_says_why_not(
    lines: list[bytes], make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("log") / "log.ndjson"
    log.write_bytes(b"\n".join(lines))
    try:
        seen = stream.look(log, make_settings())
    except UserError:
        return
    assert json.loads(json.dumps(seen.told(), allow_nan=False))["impressions"] == seen.impressions
    assert 0 <= seen.clicks <= seen.impressions


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "log.json",
            "time,query\n2026,lamp\n",
            "its first line, 'time,query', is no JSON; a log is .*UBI",
        ),
        ("log.json", '[{"query_id": "q"}]', r"it is a JSON array; write an object a line \(jq -c '.\[\]'\)"),
        ("log.csv", "time,query\n2026,lamp\n", "no file in it is a log, such as log.csv; a log is"),
    ],
)
def test_a_log_of_another_form_is_told_with_what_to_do(
    name: str, text: str, words: str, make_settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        stream.look(tmp_path, make_settings())
    with pytest.raises(UserError, match=words):
        stream.ingest(tmp_path, tmp_path / "out", make_settings())


def test_an_empty_directory_is_no_log(make_settings: MakeSettings, tmp_path: Path) -> None:
    for read in (stream.look, lambda log, settings: stream.ingest(log, tmp_path / "out", settings)):
        with pytest.raises(UserError, match="no file in it is a log; a log is"):
            read(tmp_path, make_settings())
