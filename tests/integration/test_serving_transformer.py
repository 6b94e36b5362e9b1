"""The transformer: a user's variant ranks, it is logged, and the log with its clicks is the next window."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_here import serving
from transforming import TITLES, ask, logged, transforming, write_catalogue, write_ramp

from serm import relevance
from serm.errors import UserError
from serm.rollout.assignment import Experiment, exposure
from serm.rollout.interleaving import team_draft
from serm.serving import documents as store
from serm.serving.refusals import Busy, Unavailable
from serm.serving.transformer import __main__ as command_line
from serm.serving.transformer.__main__ import predictors
from serm.serving.transformer.application import Transformer
from serm.serving.transformer.events import Events
from serm.serving.transformer.predictors import Predictor, Scored
from serm.settings.serving import PredictorSettings

SECRET = "zebra-searched-for-this"


# --- ranking ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranking(
    upstream: str, stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Transformer, Path]]:
    log = tmp_path_factory.mktemp("log")
    with transforming(upstream, log, documents=stored, log_rotate_seconds=0.05) as (client, application, _):
        yield client, application, log


def test_documents_come_in_the_order_of_the_models_own_scores(
    ranking: tuple[httpx.Client, Transformer, Path], variants: dict[str, Path]
) -> None:
    scores = relevance.load_scorer(variants["champion"]).score(["cat"] * 4, list(TITLES.values())).expected
    best = sorted(range(4), key=lambda row: -scores[row])
    answer = ask(ranking[0]).json()
    assert [one["index"] for one in answer["results"]] == best
    assert [one["score"] for one in answer["results"]] == pytest.approx(scores[best], abs=1e-3)
    assert (answer["unknown"], answer["logged"], answer["variant"]) == ([], True, "champion")
    texts = [{"id": name, "text": title} for name, title in TITLES.items()]
    assert [one["id"] for one in ask(ranking[0], documents=texts, top_n=2).json()["results"]] == [
        list(TITLES)[row] for row in best[:2]
    ]


def test_documents_that_the_store_does_not_know_stand_last_and_are_named(
    ranking: tuple[httpx.Client, Transformer, Path],
) -> None:
    answer = ask(ranking[0], documents=["new", "d1", {"id": "x", "text": ""}, "newer", "d2"]).json()
    assert [one["id"] for one in answer["results"]][3:] == answer["unknown"] == ["new", "newer"]
    assert [one["score"] is None for one in answer["results"]] == [False] * 3 + [True] * 2
    nothing = ask(ranking[0], documents=["new"]).json()
    assert (nothing["results"], nothing["unknown"]) == ([{"id": "new", "index": 0, "score": None}], ["new"])


def test_a_predictor_gets_the_requests_trace_and_what_time_is_left() -> None:
    came: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        came.append(request)
        return httpx.Response(200, json={"predictions": [{"score": 1.5}], "model_version": "v"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    predictor = Predictor("http://host/v1/models/m", client, client)
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "cookie": SECRET}
    assert asyncio.run(predictor.score("cat", ["dog"], 1.5, headers)) == Scored([1.5], "v")
    assert came[0].headers["traceparent"] == headers["traceparent"]
    assert came[0].headers["x-envoy-expected-rq-timeout-ms"] == "1500"
    assert "cookie" not in came[0].headers


def test_a_predictor_that_sends_a_byte_now_and_then_is_given_up_in_time_and_asked_meanwhile_whether_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_line, "MAX_CONNECTIONS", 1)

    holding = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        with suppress(OSError):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (999 * asked.startswith(b"POST")))
            while asked.startswith(b"POST") and not writer.is_closing():
                holding.set()
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/models/m"
            predictor = predictors({"champion": url})["champion"]
            asking = asyncio.create_task(predictor.score("cat", ["dog"], 2.0))
            await asyncio.wait_for(holding.wait(), 10)
            assert await predictor.is_ready(0.5)
            with pytest.raises(Unavailable, match="TimeoutError"):
                await asyncio.wait_for(asking, 5)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"query": None}, 400, "query: expected a text"),
        ({"query": "a\0" + SECRET}, 400, "query: holds a NUL"),
        ({"client_id": None}, 400, "client_id: expected a text of 1 to 512"),
        ({"client_id": ""}, 400, "client_id: expected"),
        ({"client_id": SECRET * 99}, 400, "client_id: expected"),
        ({"session_id": 7}, 400, "session_id: expected"),
        ({"locale": ["en"]}, 400, "locale: expected"),
        ({"documents": SECRET}, 400, "documents: expected a list"),
        ({"documents": []}, 400, "documents: no pairs"),
        ({"documents": [7]}, 400, "documents[0]: expected a text"),
        ({"documents": [{"text": SECRET}]}, 400, "documents[0].id: expected"),
        ({"documents": [{"id": "a", "text": 7}]}, 400, "documents[0].text: expected a text"),
        ({"documents": ["d1", SECRET, SECRET]}, 400, "documents[2]: its id stands there twice"),
        ({"documents": [str(n) for n in range(1001)]}, 413, "documents: at most 1,000"),
        ({"top_n": 0}, 400, "top_n"),
        ({"from": -1}, 400, "from"),
        ({"from": 1e300}, 400, "from"),
        ({"from": 2**64}, 400, "from"),
    ],
)
def test_a_wrong_request_is_told_the_field(
    ranking: tuple[httpx.Client, Transformer, Path], changes: dict[str, object], status: int, field: str
) -> None:
    answer = ask(ranking[0], **changes)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert field in answer.json()["error"]
    assert SECRET not in answer.text


ATOMS = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=8) | st.just("d1")
ANY = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
BODY = st.fixed_dictionaries(
    {"query": st.text(max_size=20), "client_id": st.text(min_size=1, max_size=9)},
    optional={
        "documents": st.lists(st.sampled_from(["d1", "d2", "x"]) | ANY, max_size=4) | ANY,
        "top_n": ATOMS,
        "from": ATOMS,
        "query_id": ATOMS,
        "locale": ATOMS,
    },
)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODY | ANY)
def test_no_body_fails_the_transformer(ranking: tuple[httpx.Client, Transformer, Path], body: object) -> None:
    assert ranking[0].post("/rank", content=json.dumps(body)).status_code in (200, 400, 413)


def test_a_page_that_follows_another_is_logged_behind_it(ranking: tuple[httpx.Client, Transformer, Path]) -> None:
    client, _, log = ranking
    query_id = ask(client, query_id="paged", **{"from": 10}).json()["query_id"]
    assert query_id == "paged"
    while not (found := [record for record in logged(log) if record["query_id"] == "paged"]):
        threading.Event().wait(0.01)
    assert json.loads(found[0]["query"]) == {"from": 10}


@pytest.mark.parametrize("cache_mb", [1, 0])
def test_a_predictor_computes_the_stores_documents_before_they_are_asked_for(
    variants: dict[str, Path], stored: Path, cache_mb: int
) -> None:
    def gauge(client: httpx.Client, name: str) -> float:
        found = re.search(rf"^serm_document_cache_{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found
        return float(found[1])

    settings = PredictorSettings(document_cache_mb=cache_mb)
    with serving({"champion": variants["champion"]}, settings, documents=stored) as client:
        while cache_mb and gauge(client, "texts") < len(TITLES):
            time.sleep(0.01)
        hits = gauge(client, "hits")
        answer = client.post("/rerank", json={"query": "cat", "documents": list(TITLES.values())})
        assert answer.status_code == 200
        assert gauge(client, "hits") - hits == (len(TITLES) if cache_mb else 0)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_where_the_challenger_fails_the_champion_ranks_and_the_log_says_so(
    upstream: str, stored: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with transforming(upstream, log, write_ramp(tmp_path / "ramp", 100), stored) as (client, application, _):
        assert ask(client).json()["ranked_by"] == "challenger"
        broken = predictors(
            {"challenger": f"{upstream}/v1/models/nobody", "champion": f"{upstream}/v1/models/champion"}
        )
        application._predictors = broken
        assert ask(client).json()["ranked_by"] == "champion"
        application._predictors = {**broken, "champion": broken["challenger"]}
        answer = ask(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/v2/health/ready").status_code == 503
    told = [one["query_attributes"]["serm"] for one in logged(log)]
    assert [one["ranked_by"] for one in told] == ["challenger", "champion"]
    assert [set(one["variants"]) for one in told] == [{"challenger"}] * 2  # a user's group is what was drawn
    users = [one["client_id"] for one in logged(log)]
    assert [one["exposure"] for one in told] == [exposure(user, Experiment("cycle-0007"), 100) for user in users]


def test_a_challenger_whose_queue_is_full_costs_its_users_no_answer_and_a_champions_is_told(
    upstream: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> Scored:
        raise Busy(7)

    ramp = write_ramp(tmp_path / "ramp", 100)
    with transforming(upstream, tmp_path / "log", ramp, stored) as (client, application, _):
        monkeypatch.setattr(application._predictors["challenger"], "score", busy)
        assert ask(client).json()["ranked_by"] == "champion"
        monkeypatch.setattr(application._predictors["champion"], "score", busy)
        answer = ask(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_an_experiment_that_interleaves_logs_whose_document_each_is(
    upstream: str, variants: dict[str, Path], stored: Path, tmp_path: Path
) -> None:
    scorers = {name: relevance.load_scorer(path) for name, path in variants.items()}
    for query in ("cat", "dog", "heart", "face", "red", "grinning"):
        scores = {name: one.score([query] * 4, list(TITLES.values())).expected for name, one in scorers.items()}
        rankings = [[list(TITLES)[row] for row in np.argsort(-scores[name], kind="stable")] for name in scorers]
        if rankings[0][:2] != rankings[1][:2]:
            break
    ramp, log, answers = tmp_path / "ramp", tmp_path / "log", {}
    ramp.write_text(json.dumps({"name": "cycle-0008", "percent": 100, "interleave": True}))
    with transforming(upstream, log, ramp, stored) as (client, application, _):
        for number in range(6):
            answer = ask(client, query=query, query_id=f"q{number}", top_n=3).json()
            assert answer == ask(client, query=query, query_id=f"q{number}", top_n=3).json()  # a page that is reloaded
            answers[answer["query_id"]] = answer
        urls = {"champion": f"{upstream}/v1/models/champion", "challenger": f"{upstream}/v1/models/nobody"}
        application._predictors = predictors(urls)
        assert ask(client).json()["ranked_by"] == "champion"
    teams = set()
    for record in logged(log)[:12]:
        told, ids = record["query_attributes"]["serm"], record["query_response_hit_ids"]
        drawn = team_draft(rankings[0], rankings[1], f"cycle-0008 {record['query_id']}", 3)
        assert [one.doc_id for one in drawn] == ids == [one["id"] for one in answers[record["query_id"]]["results"]]
        assert told["variants"] == [f"interleaved:{one.team or 'both'}" for one in drawn]
        for doc_id, version, score, one in zip(ids, told["model_versions"], told["scores"], drawn, strict=True):
            team = one.team or "champion"
            assert version == scorers[team].version
            assert score == pytest.approx(scores[team][list(TITLES).index(doc_id)], abs=1e-3)
            teams.add(one.team)
    assert {"champion", "challenger"} <= teams


def test_a_ramp_and_a_store_are_taken_up_at_a_reload_and_bad_ones_are_not(
    upstream: str, stored: Path, tmp_path: Path
) -> None:
    ramp, own = write_ramp(tmp_path / "ramp", 0), tmp_path / "own.sqlite"
    own.write_bytes(stored.read_bytes())

    def reload(client: httpx.Client, application: Transformer) -> dict[str, Any]:
        asyncio.run(application.reload())
        return dict(ask(client, documents=["d1", "d9"]).json())

    with transforming(upstream, tmp_path / "log", ramp, own) as (client, application, _):
        assert reload(client, application)["variant"] == "champion"
        write_ramp(ramp, 100)
        write_catalogue(tmp_path / "more", {**TITLES, "d9": "red cat"})
        store.write(tmp_path / "more", own)
        told = reload(client, application)
        assert (told["variant"], told["unknown"]) == ("challenger", [])
        for spoilt in ("{", "name: x", "name: x\npercent: 101", "name: x\npercent: 5\nlow: 9\nhigh: 3"):
            ramp.write_text(spoilt)
            own.with_name("no").write_bytes(b"no store")
            own.with_name("no").rename(own)
            told = reload(client, application)
            assert (told["variant"], told["unknown"]) == ("challenger", [])
    with (
        pytest.raises(UserError, match="no document store"),
        transforming(upstream, tmp_path / "log", None, own),
    ):
        pass


def test_a_catalogue_with_an_id_twice_makes_no_store(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "a" / "documents", TITLES)
    file = next((tmp_path / "a/documents").iterdir())
    (file.parent / "part-1.parquet").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="two documents have one doc_id"):
        store.write(tmp_path / "a/documents", tmp_path / "out.sqlite")
    assert not (tmp_path / "out.sqlite").exists()


def test_a_store_that_the_disk_cannot_hold_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "documents", {f"d{n}": f"title {n} " * 20 for n in range(2000)})
    (tmp_path / "store.sqlite").write_text("earlier")
    program = "import sys; from pathlib import Path; from serm.serving import documents\n"
    program += "try: documents.write(Path('documents'), Path('store.sqlite'))\n"
    program += "except documents.UserError as error: sys.exit(str(error))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert re.fullmatch(r"store.sqlite: cannot be written \(.*\); make room on the disk.\n", done.stderr), done.stderr
    assert (tmp_path / "store.sqlite").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", "store.sqlite"]


def test_requests_beside_each_other_are_each_logged_once(upstream: str, stored: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        transforming(upstream, log, documents=stored, log_rotate_seconds=0.05) as (client, _, written),
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda n: ask(client, client_id=f"c{n}").json(), range(60)))
    assert sorted(one["query_id"] for one in logged(log)) == sorted(one["query_id"] for one in answers)
    assert (written.written, written.lost) == (60, 0)
    assert not list(log.glob(".*"))


@pytest.mark.parametrize(
    "url", ["http://h\x01/v1/models/x", "http://h:99999999/v1/models/x", "h/v1/models/x", "http://h/x"]
)
def test_a_url_that_is_none_is_one_sentence_at_the_start(url: str) -> None:
    with pytest.raises(UserError, match=r"--champion .*: expected http://HOST:PORT/v1/models/NAME"):
        predictors({"champion": url})
    if "v1" in url:
        with pytest.raises(UserError, match=r"--events .*: expected http://HOST/PATH"):
            Events(url, "relevance", 1)
