"""Endpoints that are not to be trusted, over a real socket: bounded, told nothing, believed in nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import socket
import tempfile
import threading
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fake_llm import FakeLLM, Said
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judging_world import TRUTH, ask, build, graded, llm, true_grade

from serm import contracts
from serm.errors import UserError
from serm.judging.evidence.retrieval import Retrieval, SearchSource
from serm.judging.judge import ABSTAINED, Pairs
from serm.judging.llm import limits
from serm.judging.llm.budget import Budget
from serm.judging.llm.judge import LLMJudge, Session
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.prompt import Prompter
from serm.settings.judging import BudgetSettings, LLMSettings, SearchSettings

Json = dict[str, Any]
KEY = "sk-proj-0123456789abcdef"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)
    return build(tmp_path, monkeypatch)


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


ZEROS = b"0" * 2**26
BODIES: dict[str, Said] = {
    "nothing": Said(""),
    "null": Said("null"),
    "a text": Said('"text"'),
    "a number": Said("1" * 5000),
    "a list": Said([[], {}]),
    "no choices": Said({"choices": []}),
    "choices of null": Said({"choices": [None]}),
    "choices as an object": Said({"choices": {"0": {}}}),
    "no message": Said({"choices": [{"message": None, "text": "old form"}]}),
    "content as an object": Said({"choices": [{"message": {"content": {"label": 3}}}]}),
    "content as a number": Said({"choices": [{"message": {"content": 3}}]}),
    "nested 200,000 deep": Said(nested(200_000)),
    "nested 200,000 lists deep": Said("[" * 200_000),
    "not UTF-8": Said(b'{"choices": "\xff\xfe"}'),
    "UTF-16": Said('{"choices": []}'.encode("utf-16")),
    "an unknown encoding": Said(b"xyz", headers={"content-encoding": "br"}),
    "no gzip": Said(b"xyz", headers={"content-encoding": "gzip"}),
    "a gzip bomb": Said(gzip.compress(ZEROS), headers={"content-encoding": "gzip"}),
    "a deflate bomb": Said(zlib.compress(ZEROS), headers={"content-encoding": "deflate"}),
    "204": Said("", status=204),
    "a wrong length": Said("{}", headers={"content-length": "1"}),
    "a wrong chunking": Said("{}", headers={"transfer-encoding": "chunked"}),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_answer_is_that_calls_garbage(world: Path, body: str) -> None:
    """Every second request meets it, and is sent again."""
    met: set[str] = set()

    def says(request: Json, _: Json) -> Said | None:
        key = json.dumps(request["messages"])
        first = key not in met and len(fake.log) % 2 == 1
        met.add(key)
        return BODIES[body] if first else None

    with FakeLLM(true_grade, says=says) as fake:
        votes, counts = ask(world, llm(fake.url, patience_seconds=20.0, concurrency=1))
    assert graded(votes) == TRUTH
    assert counts["failed"] > 0
    assert counts["calls"] == counts["graded"] + counts["failed"]


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_an_answer_without_an_end_is_cut(world: Path, headers: dict[str, str]) -> None:
    endless = Said(b'{"a": "' + b"x" * 2**18, headers=headers, endless=True)
    with FakeLLM(true_grade, says=lambda request, ordinary: endless) as fake:
        votes, counts = ask(world, llm(fake.url, concurrency=1, attempts=1))
    assert all("more than" in vote["rationale"] or "does not answer" in vote["rationale"] for vote in votes)
    assert counts["failed"] == counts["calls"] == len(fake.log)
    assert fake.sent < len(fake.log) * 2**24


@pytest.mark.parametrize("bomb", ["a gzip bomb", "a deflate bomb"])
def test_a_bomb_is_not_unpacked_beyond_the_bound(world: Path, bomb: str) -> None:
    with FakeLLM(true_grade, says=lambda request, ordinary: BODIES[bomb]) as fake:
        tracemalloc.start()
        ask(world, llm(fake.url, concurrency=1, attempts=1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert fake.log
    assert peak < len(ZEROS) // 2


@pytest.mark.parametrize("content", [nested(200_000), "{" * 200_000, '{"' * 100_000, '{"a":"' * 50_000 + "}"])
def test_content_that_is_hard_to_parse_is_malformed(world: Path, content: str) -> None:
    def says(_: Json, ordinary: Json) -> Json:
        ordinary["choices"][0]["message"]["content"] = content
        return ordinary

    with FakeLLM(true_grade, says=says) as fake:
        votes, counts = ask(world, llm(fake.url))
    assert all(vote["rationale"].startswith("malformed twice") for vote in votes)
    assert 2 * counts["malformed"] == counts["calls"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(world: Path, status: int) -> None:
    with FakeLLM(true_grade) as other:
        moved = Said("", status, {"location": f"{other.url}/chat/completions"})
        with FakeLLM(true_grade, says=lambda request, ordinary: moved) as fake:
            with pytest.raises(UserError, match=f"answers {status}: a redirect to {other.url}.*not followed"):
                ask(world, llm(fake.url))
            assert len(fake.log) == 1
        assert not other.log


def test_only_what_the_settings_name_is_sent(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeLLM(true_grade) as elsewhere:
        for name, value in {
            "OPENAI_API_KEY": "sk-of-another",
            "OPENAI_ORG_ID": "org-secret",
            "OPENAI_PROJECT_ID": "project-secret",
            "OPENAI_CUSTOM_HEADERS": "X-Secret: secret",
            "OPENAI_BASE_URL": elsewhere.url,
            "OPENAI_WEBHOOK_SECRET": "secret",
            "SERM_TEST_KEY": f" {KEY}\n",
        }.items():
            monkeypatch.setenv(name, value)
        (world / ".netrc").write_text("default login secret password secret\n")
        monkeypatch.setenv("NETRC", str(world / ".netrc"))
        monkeypatch.setenv("HOME", str(world))

        def says(_: Json, ordinary: Json) -> Said:
            return Said(ordinary, headers={"set-cookie": "secret=1"})

        with FakeLLM(true_grade, says=says) as fake:
            ask(world, llm(fake.url), llm(fake.url, "with key", api_key_env="SERM_TEST_KEY"))
        assert not elsewhere.log
    names = {name for headers in fake.headers for name in headers}
    known = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "content-type"}
    assert names == known | {"idempotency-key", "authorization"}
    assert {headers.get("authorization") for headers in fake.headers} == {None, f"Bearer {KEY}"}
    assert "secret" not in str(fake.headers) + str(fake.log)


@pytest.mark.parametrize("key", ["a\nb: c", "kéy", "\x00"])
def test_a_key_that_no_header_can_hold_is_the_users_mistake(
    world: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "SERM_TEST_KEY": key})
    with pytest.raises(UserError, match="SERM_TEST_KEY holds what no HTTP header can"):
        ask(world, llm("http://127.0.0.1:9/v1", api_key_env="SERM_TEST_KEY"))


def test_an_address_with_a_password_is_refused(world: Path) -> None:
    for address in ("http://me:secret@host/v1", "https://host/v1#x", "ftp://host/v1", "http://"):
        with pytest.raises(ValueError, match="base_url"):
            LLMSettings(**llm(address))
    with pytest.raises(UserError, match="is no address"):
        ask(world, llm("http://host:port/v1"))


def test_a_key_that_is_echoed_is_masked_wherever_it_would_be_kept(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In answers, spelled in JSON's escapes too, and in every kind of error; terminal escapes go with it."""
    monkeypatch.setenv("SERM_TEST_KEY", KEY)
    caplog.set_level(logging.INFO)
    escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
    error = {"error": {"message": f"\x1b[31mBearer {KEY}\x07", "code": KEY}}

    def says(request: Json, ordinary: Json) -> Json | Said:
        user = request["messages"][1]["content"]
        of = ordinary["choices"][0]["message"]
        if "<query>green</query>" not in user:
            of["content"] = of["content"].replace('"rationale": "', f'"rationale": "{KEY} \\u001b[31m {escaped} ')
            return ordinary
        return Said(error, 403) if "green car" in user.split("<evidence")[0] else Said(error, 500)

    with FakeLLM(true_grade, says=says) as fake:
        judge = llm(fake.url, api_key_env="SERM_TEST_KEY", attempts=2, patience_seconds=5.0)
        votes, _ = ask(world, judge)
        fake.says = lambda request, ordinary: Said(error, 429, {"location": KEY})
        ask(world, judge | {"name": "busy"}, ledger=world / "busy.sqlite")
        fake.says = lambda request, ordinary: Said(error | {"error": {"message": f"insufficient_quota {KEY}"}}, 429)
        ask(world, judge | {"name": "spent"}, ledger=world / "spent.sqlite")
        for said in (Said(error, 401), Said("", 302, {"location": f"http://x/{KEY}"}), Said(error, 400)):
            fake.says = partial(lambda answer, *_: answer, said)
            with pytest.raises(UserError) as told:
                ask(world, judge | {"name": "wrong"}, ledger=world / "wrong.sqlite")
            assert KEY not in str(told.value)
            assert "\x1b" not in str(told.value)
    review = contracts.read(world / "out" / "review", contracts.REVIEW).to_pylist()
    assert not [record for record in caplog.records if record.name.startswith("http")]
    assert any("*" * len(KEY) in vote["rationale"] for vote in votes)
    for kept in (str(votes), str(review), caplog.text, (world / "out" / "annotate.json").read_text()):
        assert KEY not in kept
        assert "\x1b" not in kept
        assert "\\x1b" not in kept
    for file in (*world.glob("*.sqlite*"), *(world / "out").rglob("*.parquet")):
        assert KEY.encode() not in file.read_bytes()
        assert b"\x1b[31m" not in file.read_bytes()


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def near(ordinary: object, wrong: list[object], chance: random.Random) -> object:
    """An ordinary answer with some of its parts, at any depth, gone or wrong."""
    if not chance.randrange(12):
        return chance.choice(wrong)
    if isinstance(ordinary, dict):
        return {name: near(part, wrong, chance) for name, part in ordinary.items() if chance.randrange(20)}
    if isinstance(ordinary, list):
        return [near(part, wrong, chance) for part in ordinary if chance.randrange(20)]
    return ordinary


@hypothesis_settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([200, 200, 200, 201, 400, 403, 418, 429, 500]), any_json), max_size=6),
    st.lists(any_json, min_size=1),
    st.integers(0, 2**32),
)
def test_whatever_an_endpoint_answers_the_run_ends_and_its_counts_add_up(
    first: list[tuple[int, object]], wrong: list[object], seed: int
) -> None:
    """Answers of any kind first, then ordinary ones with wrong parts."""
    pairs = Pairs(["red", "green"], ["en"] * 2, ["a", "b"], ["red cat"] * 2, ["red cat"] * 2, [None] * 2)
    chance = random.Random(seed)
    answers = iter([Said(json.dumps(body), status) for status, body in first])

    def says(_: Json, ordinary: Json) -> object:
        other = next(answers, None)
        return Said(json.dumps(near(ordinary, wrong, chance))) if other is None else other

    FAKE.says = says
    fields = llm(FAKE.url, attempts=2, backoff_seconds=1e-6, patience_seconds=0.02)
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger.sqlite")
        budget = Budget(BudgetSettings(money=None, calls=None), 0, 0)
        session = Session("fuzz", ledger, budget, Prompter({}, 200), Retrieval([]))
        judge = LLMJudge(LLMSettings(**fields), session)
        try:
            votes = judge.judge(pairs)
        finally:
            ledger.close()
        ledger = Ledger(Path(directory) / "ledger.sqlite")
        spent, calls = ledger.spent("fuzz")
        ledger.close()
    of = judge.counts
    assert of["calls"] == calls == budget.calls == of["answered"] + of["refused"] + of["failed"] + of["cut"]
    before = of["asked_again"] + of["respelled"] + of["stopped"]
    assert of["cached"] + of["answered"] + of["refused"] == of["graded"] + of["abstained"] + before
    assert of["graded"] + of["abstained"] + of["unjudged_endpoint"] == len(pairs)
    assert budget.committed == spent >= 0
    assert sum(votes.grades != ABSTAINED) == of["graded"]
    "".join(votes.rationales).encode()


@pytest.fixture(scope="module", autouse=True)
def _fake() -> Any:
    global FAKE
    with FakeLLM() as FAKE:
        yield


FAKE: FakeLLM


# The search endpoint


class Results:
    """A search endpoint that answers one thing."""

    def __init__(self, said: Said) -> None:
        self.fake = FakeLLM()
        self.said = said

    async def __call__(self, scope: Json, receive: Any, send: Any) -> None:
        await self.fake._say(self.said, send, receive)


@pytest.mark.parametrize(
    "said",
    [
        *BODIES.values(),
        Said(b"[" * 2**20, endless=True),
        Said({"results": {"0": 1}}),
        Said({"results": [None]}),
        Said({"results": [{"text": "moved"}]}, 302, {"location": "http://127.0.0.1:9/"}),
    ],
)
def test_a_search_endpoint_is_bounded_too(said: Said, tmp_path: Path) -> None:
    assert looked_up(said, tmp_path) == ([], 1)


def test_what_a_search_endpoint_finds_can_be_stored_and_shown(tmp_path: Path) -> None:
    found = {"results": [{"text": "a \ud800\x1b[31m cat"}, {"text": 7}, {"text": "x" * 10**6}, {"text": ""}]}
    texts, failures = looked_up(Said(found), tmp_path)
    assert texts[:2] == ["a [31m cat", "7"]
    assert len(texts[2]) == 10_000
    assert failures == 0


def looked_up(said: Said, tmp_path: Path) -> tuple[list[str], int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(Results(said), log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        ledger = Ledger(tmp_path / "ledger.sqlite")
        source = SearchSource(SearchSettings(url=f"http://127.0.0.1:{listener.getsockname()[1]}/"), ledger)
        try:
            return asyncio.run(source.look_up("cat", "en", "x", None)), source.failures
        finally:
            ledger.close()
            server.should_exit = server.force_exit = True
            thread.join(20)
