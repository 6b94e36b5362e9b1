"""What SERM's transformer wrote into a UBI log of the models' scores comes back in the window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serm import contracts, stream

SERM = {
    "variants": ["challenger", "challenger", "interleaved:both"],
    "model_versions": ["0123456789ab"] * 3,
    "scores": [2.5, 1.0, None],
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "a secret of the tests")


def _rows(folder: Path, records: list[dict[str, Any]], settings: Any) -> dict[str, tuple[object, ...]]:
    (folder / "ubi.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    stream.ingest(folder / "ubi.jsonl", folder / "out", settings)
    rows = contracts.read(folder / "out/impressions", contracts.IMPRESSIONS).to_pylist()
    return {row["doc_id"]: (row["clicked"], row["score"], row["model_version"], row["variant"]) for row in rows}


def _query(**serm: object) -> dict[str, Any]:
    query = {"query_id": "q1", "client_id": "ann", "user_query": "lamp", "timestamp": "2018-03-04T10:00:00Z"}
    return {**query, "query_response_hit_ids": ["a", "b", "c"], "query_attributes": {"serm": serm}}


CLICK = {
    "action_name": "click",
    "query_id": "q1",
    "client_id": "ann",
    "timestamp": "2018-03-04T10:00:05Z",
    "event_attributes": {"object": {"object_id": "b"}},
}


def test_each_document_has_the_score_variant_and_model_that_it_was_served_with(make_settings, tmp_path: Path) -> None:
    shown = {**CLICK, "action_name": "impression", "event_attributes": {"object": {"object_id": "a"}}}
    for records in ([_query(**SERM), CLICK], [_query(**SERM), CLICK, shown]):
        rows = _rows(tmp_path, records, make_settings())
        assert rows["b"] == (True, 1.0, "0123456789ab", "challenger")
        assert rows["a"] == (False, 2.5, "0123456789ab", "challenger")
        assert rows.get("c") == (None if shown in records else (False, None, "0123456789ab", "interleaved:both"))


@pytest.mark.parametrize(
    "serm",
    [
        {"scores": [1, 2, 3]},
        {"scores": "high", "model_versions": ["v"] * 3},
        {"scores": [1], "model_versions": ["v"] * 9, "variants": []},
        {"scores": {"a": 1}, "model_versions": {"v": 1}, "variants": "x"},
        {"scores": [[1], "x", True, 4, 5, 6], "model_versions": [7, None, []]},
    ],
)
def test_scores_of_another_form_lose_no_row(make_settings, tmp_path: Path, serm: dict[str, object]) -> None:
    rows = _rows(tmp_path, [_query(**serm), CLICK], make_settings())
    assert rows.keys() == {"a", "b", "c"}
