"""Pairs that are judged stand by their grade and the model's score; the log keeps both."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import httpx
import pytest
from transforming import TITLES, ask, logged, transforming, write_judged, write_ramp

from serm.errors import UserError

JUDGED = {("cat", "d1"): 0, ("cat", "d3"): [0.0, 0.1, 0.2, 0.7], ("dog", "d1"): 3}


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("query", ["cat", " CAT ", "ｃａｔ"])
def test_what_is_judged_for_the_query_stands_by_grade_and_score_in_the_shares_that_are_set(
    query: str, weight: float, upstream: str, stored: Path, tmp_path: Path
) -> None:
    judged, limits = write_judged(tmp_path, JUDGED), {"judgment_weight": weight}
    with transforming(upstream, tmp_path / "plain", documents=stored) as (client, _, _):
        scores = {one["id"]: one["score"] for one in ask(client, query=query).json()["results"]}
    with transforming(upstream, tmp_path / "log", documents=stored, judged=judged, **limits) as (client, _, _):
        results = ask(client, query=query).json()["results"]
    grades = {one["id"]: one["grade"] for one in results if "grade" in one}
    assert grades == pytest.approx({"d1": 0, "d3": 2.6})
    assert {one["id"]: one["score"] for one in results} == scores
    by = {one: weight * grades.get(one, score) + (1 - weight) * score for one, score in scores.items()}
    assert [one["id"] for one in results] == sorted(scores, key=lambda one: -by[one])
    assert ([one["id"] for one in results] == list(scores)) == (weight == 0)  # so that the weight was felt
    (record,) = logged(tmp_path / "log")
    told = record["query_attributes"]["serm"]
    assert told["scores"] == [one["score"] for one in results]
    assert told["grades"] == [one.get("grade") for one in results]


def test_a_query_without_judgments_is_ranked_and_logged_as_before(upstream: str, stored: Path, tmp_path: Path) -> None:
    judged = write_judged(tmp_path, JUDGED)
    asked = {"query": "a query that nobody judged", "query_id": "q"}
    with transforming(upstream, tmp_path / "plain", documents=stored) as (client, _, _):
        plain = ask(client, **asked).json()
    with transforming(upstream, tmp_path / "log", documents=stored, judged=judged) as (client, _, _):
        assert ask(client, **asked).json() == plain
    records = [logged(tmp_path / name)[0] | {"timestamp": None} for name in ("plain", "log")]
    assert records[0] == records[1]


@pytest.mark.parametrize("interleave", [False, True])
def test_both_variants_rank_by_what_is_judged(interleave: bool, upstream: str, stored: Path, tmp_path: Path) -> None:
    judged, ramp = write_judged(tmp_path, {("cat", "d2"): 3, ("cat", "d4"): 0}), tmp_path / "ramp"
    for percent in (0, 100):
        write_ramp(ramp, percent)
        if interleave:
            ramp.write_text(ramp.read_text().replace("{", '{"interleave": true, '))
        with transforming(upstream, tmp_path / "log", ramp, stored, judged=judged, judgment_weight=1) as (client, _, _):
            answer = ask(client).json()
        assert answer["ranked_by"] == ("champion" if not percent else "both" if interleave else "challenger")
        assert (answer["results"][0]["id"], answer["results"][-1]["id"]) == ("d2", "d4")


def test_a_judged_document_whose_text_nobody_knows_stands_by_its_grade_alone(
    upstream: str, stored: Path, tmp_path: Path
) -> None:
    judged = write_judged(tmp_path, {("cat", "new"): 3})
    with transforming(upstream, tmp_path / "log", documents=stored, judged=judged) as (client, _, _):
        answer = ask(client, documents=["d1", "newer", "new"]).json()
        alone = ask(client, documents=["new"]).json()
    assert [one["id"] for one in answer["results"]] == ["new", "d1", "newer"]
    assert answer["results"][0] == {"id": "new", "index": 2, "score": None, "grade": 3}
    assert answer["unknown"] == ["newer", "new"]
    assert alone["results"] == [{"id": "new", "index": 0, "score": None, "grade": 3}]


def test_new_judgments_are_taken_up_at_a_reload_and_bad_ones_are_not(
    upstream: str, stored: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged = write_judged(tmp_path, {("cat", "d1"): 0})

    def first(client: httpx.Client) -> str:
        return str(ask(client).json()["results"][0]["id"])

    alone = {"judgment_weight": 1}
    with transforming(upstream, tmp_path / "log", documents=stored, judged=judged, **alone) as (
        client,
        application,
        _,
    ):
        for doc_id in TITLES:
            write_judged(tmp_path, {("cat", doc_id): 3})
            asyncio.run(application.reload())
            assert first(client) == doc_id
        judged.with_name("no").write_bytes(b"no store")
        judged.with_name("no").rename(judged)
        with caplog.at_level(logging.ERROR):
            asyncio.run(application.reload())
        assert "The judgments stay as they were: " in caplog.text
        assert first(client) == doc_id
    with pytest.raises(UserError, match="no judgment store"), transforming(upstream, tmp_path, judged=judged):
        pass
    with (
        pytest.raises(UserError, match="no judgment store; write one with serm export --judgments"),
        transforming(upstream, tmp_path, judged=stored),
    ):
        pass


def test_it_counts_the_documents_that_are_judged(upstream: str, stored: Path, tmp_path: Path) -> None:
    judged = write_judged(tmp_path, JUDGED)
    with transforming(upstream, tmp_path / "log", documents=stored, judged=judged) as (client, _, _):
        counts = []
        for _ in range(2):
            told = client.get("/metrics").text
            counts.append(float(re.findall(r"^serm_ranked_judged_documents_total (\S+)$", told, re.M)[0]))
            ask(client)
    assert counts[1] - counts[0] == 2
