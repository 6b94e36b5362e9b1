"""Endpoints as they are, over a real socket: what they refuse is spelled another way, and who takes no more is left."""

from __future__ import annotations

import logging
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_llm import FakeLLM, Said, Says
from judging_world import TRUTH, ask, build, foresee, graded, llm, run_llms, true_grade

from serm.errors import UserError
from serm.judging.llm import limits

Json = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)
    return build(tmp_path, monkeypatch)


def fault(status: int, said: str, **fields: object) -> Said:
    return Said({"error": {"message": said, **fields}}, status)


def strict(request: Json, ordinary: Json) -> object:
    """Refuse, one by one and in the words of real endpoints, all that not every endpoint takes."""
    form = request.get("response_format", {}).get("type")
    if form == "json_schema":
        return fault(400, "This response_format type is unavailable now", type="invalid_request_error")
    if form:
        return fault(400, "'response_format.type' must be 'text'", param="response_format")
    if "max_tokens" in request:
        return fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    if "seed" in request:
        said = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs", "input": "temperature"}]
        return Said({"detail": said}, 422)
    if "logprobs" in request or "top_logprobs" in request:
        return fault(400, "You are not allowed to request logprobs from this model")
    if "temperature" in request:
        return fault(400, "Unsupported value", param="temperature")
    return None


def test_what_an_endpoint_refuses_is_learnt_once_and_told_once(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeLLM(true_grade, says=strict, latency=0.01) as fake:
        votes, counts = ask(world, llm(fake.url, concurrency=8), llm(fake.url, "second", concurrency=8))
    assert graded([vote for vote in votes if vote["judge"] == "fake"]) == TRUTH
    assert graded([vote for vote in votes if vote["judge"] == "second"]) == TRUTH
    refused = [request for _, _, request in fake.log if strict(request, {})]
    assert len(refused) == 6
    assert set(fake.log[-1][2]) == {"model", "messages", "max_completion_tokens"}
    (told,) = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    settings = ("response_format: none", "token_limit: max_completion_tokens", "seed: false", "logprobs: false")
    assert all(setting in told for setting in (*settings, "temperature: null"))
    assert counts.get("respelled", 0) in (0, 6)


def test_the_settings_spare_the_tries_and_the_cache_holds(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain: Json = {"logprobs": False, "temperature": None}
    with FakeLLM(true_grade, says=strict) as fake:
        ask(world, llm(fake.url, **plain))
        asked = len(fake.log)
        caplog.clear()
        spelled = {"response_format": "none", "token_limit": "max_completion_tokens", "seed": False}
        votes, _ = ask(world, llm(fake.url, **plain, **spelled))
        assert len(fake.log) == asked
        assert graded(votes) == TRUTH
        ask(world, llm(fake.url, **plain, **spelled), ledger=world / "other.sqlite")
        assert not any(strict(request, {}) for _, _, request in fake.log[asked:])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "refuses" in record.msg]


def test_a_refusal_that_no_spelling_mends_is_the_users_mistake_after_five(world: Path) -> None:
    with (
        FakeLLM(true_grade, says=lambda request, ordinary: fault(400, "Bad\x1b[1m Request")) as fake,
        pytest.raises(UserError, match=r"judge fake: http://\S+ refused 5 requests and answered none \(400: Bad \[1m"),
    ):
        run_llms(world, llm(fake.url, concurrency=16))
    assert len(fake.log) == 5


@pytest.mark.parametrize(
    "refusal",
    [
        fault(403, "Your input was flagged", metadata={"reasons": ["violence"]}),
        fault(400, "The response was filtered due to the prompt", code="content_filter"),
        fault(400, "I do not like the seed of this plant, its temperature, json_schema, max_tokens and logprobs"),
        fault(413, "prompt too long"),
        fault(422, "insufficient_quota, typed a searcher"),
    ],
)
def test_a_flagged_input_is_its_own_pairs_abstention_and_a_resume_goes_on(world: Path, refusal: Said) -> None:
    def says(request: Json, _: Json) -> Said | None:
        return refusal if "<query>green</query>" in request["messages"][1]["content"] else None

    with FakeLLM(true_grade, says=says) as fake:
        votes, _ = ask(world, llm(fake.url))
        assert graded(votes) == TRUTH | {("green", "en-4"): None, ("green", "en-2"): None}
        assert all("the endpoint refused: 4" in vote["rationale"] for vote in votes if vote["query"] == "green")
        asked = len(fake.log)
        again, _ = ask(world, llm(fake.url))
        assert again == votes
        assert all(says(request, {}) for _, _, request in fake.log[asked:])
    with sqlite3.connect(world / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT sum(cost) FROM calls WHERE status LIKE 'refused%'").fetchone() == (0,)


def test_more_flagged_inputs_than_five_stop_no_resume(world: Path) -> None:
    def says(request: Json, _: Json) -> Said | None:
        return fault(403, "no") if request["messages"][1]["content"].startswith(("<query>g", "<query>p")) else None

    with FakeLLM(true_grade, says=says) as fake:
        run_llms(world, llm(fake.url))
        asked = len(fake.log)
        run_llms(world, llm(fake.url))
        assert len(fake.log) - asked == 16
        assert all(says(request, {}) for _, _, request in fake.log[asked:])


@pytest.mark.parametrize(
    "spent",
    [
        fault(429, "You exceeded your current quota, please check your plan.", type="insufficient_quota"),
        fault(402, "Insufficient Balance"),
        Said({"error": {"message": "Insufficient credits", "code": 402}}),
    ],
)
def test_a_spent_account_stops_its_judge_at_once_in_the_providers_words(
    world: Path, spent: Said, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeLLM(true_grade, says=lambda request, ordinary: spent) as broke, FakeLLM(true_grade) as fake:
        votes, counts = ask(world, llm(broke.url, concurrency=16), llm(fake.url, "other"))
    assert len(broke.log) == counts["calls"] == counts["stopped"] == 1
    words = str(spent.body["error"]["message"])
    assert all(words in vote["rationale"] for vote in votes if vote["judge"] == "fake")
    assert graded([vote for vote in votes if vote["judge"] == "other"]) == TRUTH
    assert sum(words in record.getMessage() for record in caplog.records) == 1


def test_an_account_that_is_spent_midway_is_posted_to_by_calls_in_flight_only(world: Path) -> None:
    def says(_: Json, __: Json) -> Said | None:
        return fault(429, "insufficient_quota") if len(fake.log) > 40 else None

    with FakeLLM(true_grade, says=says, latency=0.005) as fake:
        run_llms(world, llm(fake.url, concurrency=4))
        assert 40 < len(fake.log) <= 44


@pytest.mark.parametrize("status", [401, 404, 307])
def test_an_endpoint_that_is_wrong_from_the_start_is_the_users_mistake(world: Path, status: int) -> None:
    with FakeLLM(true_grade, says=lambda request, ordinary: fault(status, "so it is")) as fake:
        with pytest.raises(UserError, match=f"answers {status}: .*check base_url, model and the key"):
            run_llms(world, llm(fake.url, concurrency=16))
        assert len(fake.log) == 1


def test_a_key_that_expires_midway_stops_its_judge_only(world: Path) -> None:
    def says(_: Json, __: Json) -> Said | None:
        return fault(401, "key expired") if len(fake.log) > 3 else None

    with FakeLLM(true_grade, says=says) as fake, FakeLLM(true_grade) as well:
        votes, _ = ask(world, llm(fake.url, concurrency=1), llm(well.url, "other"))
    assert any("takes no more calls (401: key expired)" in vote["rationale"] for vote in votes)
    assert graded([vote for vote in votes if vote["judge"] == "other"]) == TRUTH


def storm(after: str) -> Says:
    return lambda request, ordinary: Said({"error": {"message": "slow down"}}, 429, {"retry-after": after})


@pytest.mark.parametrize("after", ["1000000000", "0", "Fri, 31 Dec 9999 23:59:59 GMT", "1e400", "-5", "\t"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_storm_of_429_ends_with_the_judges_patience(world: Path, after: str, concurrency: int) -> None:
    with FakeLLM(true_grade, says=storm(after)) as fake:
        votes, counts = ask(world, llm(fake.url, concurrency=concurrency, patience_seconds=0.2))
    assert all("429: slow down" in vote["rationale"] and vote["grade"] is None for vote in votes)
    assert counts["failed"] == counts["calls"] == len(fake.log) <= 40
    assert counts["unjudged_endpoint"] == 11


def test_a_call_that_never_went_out_is_not_paid(world: Path) -> None:
    """The listener takes no connection: each call waits for one until the run's time is up."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.create_connection(address)]
        for _ in range(4):  # fill the backlog
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        _, counts = ask(world, llm(f"http://127.0.0.1:{address[1]}/v1"), budget={"seconds": 0.5})
        for one in waiting:
            one.close()
    assert "calls" not in counts
    assert counts["unjudged_budget"] == 11
    with sqlite3.connect(world / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT sum(cost), sum(status NOT LIKE 'unsent%') FROM calls").fetchone() == (0, 0)


def test_a_call_that_is_cut_while_the_ledger_notes_it_is_not_paid(world: Path) -> None:
    """Another process holds the ledger's file as the run's time goes by: nothing is sent, nothing is paid."""
    with FakeLLM(true_grade) as fake:
        ask(world, llm(fake.url, "before"))
        asked = len(fake.log)
        holder = sqlite3.connect(world / "ledger.sqlite", check_same_thread=False, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.5, holder.execute, ["COMMIT"])
        release.start()
        ask(world, llm(fake.url), budget={"seconds": 0.4})
        release.join()
        holder.close()
        assert len(fake.log) == asked
    with sqlite3.connect(world / "ledger.sqlite") as ledger:
        cost = ledger.execute("SELECT sum(cost), count(*) FROM calls WHERE judge = 'fake'").fetchone()
        assert cost[0] == 0 < cost[1]


def test_a_ledger_that_cannot_be_written_ends_the_run_with_its_reason(world: Path) -> None:
    with FakeLLM(true_grade) as fake:

        def says(_: Json, __: Json) -> None:
            if len(fake.log) >= 5:  # several requests may come at once
                with sqlite3.connect(world / "ledger.sqlite", timeout=20) as other:
                    other.execute("DROP TABLE IF EXISTS answers")

        fake.says = says
        with pytest.raises(UserError, match=r"ledger.sqlite: the ledger cannot be (written|read) \(.*no such table"):
            ask(world, llm(fake.url))


def test_a_writer_that_any_error_meets_ends_the_run_with_its_reason(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serm.judging.llm import ledger

    monkeypatch.setattr(ledger, "_FINISH", "UPDATE calls SET finished = ?, status = ?, input_tokens = ?1 || ?")
    with FakeLLM(true_grade) as fake, pytest.raises(UserError, match="the ledger cannot be written"):
        ask(world, llm(fake.url))


def test_a_dry_run_is_not_changed_by_how_requests_are_spelled(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        first = foresee(world, llm(fake.url), llm(fake.url, "other", response_format="none", seed=False))
    assert first["fake"] == first["other"]
