"""The predictor as a process, over a socket, and the deploy step on it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
import report_history
import tiny_models
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serm import contracts, relevance
from serm.errors import UserError
from serm.monitoring import exporter
from serm.serving import trial
from serm.serving.deploy import deploy
from serm.serving.replay import Request, sample
from serm.serving.server import running
from serm.settings import CycleSettings, ServingSettings, Settings

MONITORING = Path(__file__).parents[2] / "monitoring"
START = datetime(2020, 1, 1, tzinfo=UTC)
PAIRS = [("cat", "grinning cat"), ("dog", "red heart"), ("heart", "red heart"), ("cat", "dog face")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    paths = {"champion": root / "champion", "challenger": root / "trained" / "model"}
    for seed, path in enumerate(paths.values()):
        tiny_models.save(path, root / "base", seed)
    return paths


@pytest.fixture(scope="module")
def client(saved: dict[str, Path]) -> Iterator[httpx.Client]:
    with running(saved) as ready:
        yield ready()


def _v1(client: httpx.Client, instances: object, model: str = "champion") -> httpx.Response:
    return client.post(f"/v1/models/{model}:predict", json={"instances": instances})


def _v2(client: httpx.Client, **changes: object) -> httpx.Response:
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [len(PAIRS)], "data": [pair[side] for pair in PAIRS]}
        for side, name in enumerate(("query", "document"))
    ]
    return client.post("/v2/models/champion/infer", json={"id": "7", "inputs": inputs, **changes})


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_v1_gives_the_models_own_scores(client: httpx.Client, saved: dict[str, Path], name: str) -> None:
    model = relevance.load(saved[name])
    expected = model.score(*map(list, zip(*PAIRS, strict=True)))
    answer = _v1(client, [{"query": query, "document": document} for query, document in PAIRS], name).json()
    assert answer["model_version"] == model.version
    assert [one["score"] for one in answer["predictions"]] == pytest.approx(expected.expected, abs=1e-5)
    found = np.array([one["distribution"] for one in answer["predictions"]])
    assert found == pytest.approx(expected.distribution, abs=1e-5)


def test_the_models_differ(client: httpx.Client) -> None:
    instances = [{"query": query, "document": document} for query, document in PAIRS]
    one, other = (_v1(client, instances, name).json() for name in ("champion", "challenger"))
    assert one["model_version"] != other["model_version"]
    assert one["predictions"] != other["predictions"]


def test_v2_agrees_with_v1(client: httpx.Client) -> None:
    v1 = _v1(client, [{"query": query, "document": document} for query, document in PAIRS]).json()
    v2 = _v2(client).json()
    assert (v2["id"], v2["model_name"], v2["model_version"]) == ("7", "champion", v1["model_version"])
    outputs = {output["name"]: output for output in v2["outputs"]}
    assert outputs["score"]["shape"] == [len(PAIRS)]
    assert outputs["distribution"]["shape"] == [len(PAIRS), 4]
    assert outputs["score"]["data"] == pytest.approx([one["score"] for one in v1["predictions"]])
    assert sum(outputs["distribution"]["data"]) == pytest.approx(len(PAIRS), abs=1e-5)


def test_v2_metadata(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/challenger").json()
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == [("query", "BYTES"), ("document", "BYTES")]
    assert metadata["outputs"][1]["shape"] == [-1, 4]


def test_dashboard_and_alerts_name_only_what_is_exported(client: httpx.Client, tmp_path: Path) -> None:
    assert _v1(client, [{"query": "cat", "document": "red heart"}]).is_success
    assert not _v1(client, [{"query": "cat"}]).is_success
    server = client.get("/metrics").text
    workspace = report_history.write(tmp_path / "shop", 1)
    costs = workspace / "history/cycle-0001/costs.json"
    figures = json.loads(costs.read_text())
    figures["annotate"]["llm_cost"] = 1.5  # as with LLM judges
    costs.write_text(json.dumps(figures))
    cycles = generate_latest(exporter.registry(workspace)).decode()
    exported = {
        sample.name
        for text in (server, cycles)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 30
    named = set()
    for expression in expressions:
        bare = re.sub(r"""{.*?}|\[.*?\]|"[^"]*"|\bby \(.*?\)""", " ", expression)
        named |= set(re.findall(r"\b[a-z]\w*\b(?!\s*\()", bare)) - {"or"}
    assert named - exported == set()
    # What the error alert rests on: a request with bad input reaches preprocess and not postprocess.
    counts = {
        sample.name: sample.value
        for family in text_string_to_metric_families(server)
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels.get("model_name") == "champion"
    }
    assert counts["request_preprocess_seconds_count"] > counts["request_postprocess_seconds_count"] >= 1


def test_unknown_model(client: httpx.Client) -> None:
    assert _v1(client, [{"query": "cat", "document": "dog"}], "nobody").status_code == 404


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"ended with code 1: .*no model there"),
        running({"champion": tmp_path}) as ready,
    ):
        ready()


def test_a_server_that_is_late_is_stopped(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serm.serving.server.READY_SECONDS", 0.2)
    before = set(psutil.Process().children())
    with running(saved) as ready:
        (started,) = set(psutil.Process().children()) - before
        with pytest.raises(UserError, match="not ready after 0 s"):
            ready()
        assert started.is_running()
    assert not started.is_running()


# --- the deploy step ----------------------------------------------------------------------------------------------


TITLES = ["grinning cat", "dog face", "red heart"]


@pytest.fixture
def window(tmp_path: Path) -> Path:
    return _window(tmp_path / "validated", TITLES, [""] * len(TITLES))


def _window(validated: Path, titles: list[str], bodies: list[str], searches: int = 60) -> Path:
    """A catalogue, and searches that showed all of it."""
    time = pa.timestamp("us", tz="UTC")
    contracts.write(
        pa.table(
            {
                "doc_id": [f"en-{number}" for number in range(len(titles))],
                "locale": ["en"] * len(titles),
                "title": titles,
                "body": bodies,
                "published_at": pa.array([START] * len(titles), time),
                "attributes": pa.array([[]] * len(titles), pa.map_(pa.string(), pa.string())),
            }
        ),
        validated / "documents",
        contracts.DOCUMENTS,
    )
    rows = [
        {
            "event_time": START + timedelta(minutes=session),
            "query_id": f"q{session}",
            "session_id": f"s{session}",
            "user_id": f"u{session % 20}",
            "locale": "en",
            "query": ["cat", "dog", "heart"][session % 3],
            "doc_id": f"en-{(session + position) % len(titles)}",
            "position": position + 1,
            "clicked": position == 0,
            "negative_feedback": False,
        }
        for session in range(searches)
        for position in range(len(titles))
    ]
    contracts.write(
        pa.Table.from_pylist(rows, schema=contracts.IMPRESSIONS), validated / "impressions", contracts.IMPRESSIONS
    )
    return validated


def _deploy(
    root: Path, saved: dict[str, Path], gate: str, max_p95_ms: float = 600_000
) -> tuple[dict[str, Any], dict[str, Any]]:
    (root / "evaluated").mkdir()
    (root / "evaluated" / "evaluate.json").write_text(json.dumps({"gate": {"result": gate, "reasons": []}}))
    settings = Settings(
        cycle=CycleSettings(start=START, end=START + timedelta(days=1)),
        serving=ServingSettings(requests=40, canary_percent=50, max_p95_ms=max_p95_ms),
    )
    trained = saved["challenger"].parent
    deploy(saved["champion"], trained, root / "validated", root / "evaluated", root / "out", settings)
    return (
        json.loads((root / "out" / "deploy.json").read_text()),
        yaml.safe_load((root / "out" / "inferenceservice.yaml").read_text()),
    )


@pytest.mark.usefixtures("window")
def test_a_passed_challenger_gets_its_share(tmp_path: Path, saved: dict[str, Path]) -> None:
    canary, manifest = _deploy(tmp_path, saved, "passed")
    assert (canary["decision"], canary["traffic_percent"], canary["requests"]) == ("hold", 50, 40)
    assert manifest["spec"]["canary"][0]["trafficPercent"] == 50
    champion, challenger = (canary["variants"][name] for name in ("champion", "challenger"))
    assert champion["served"] + challenger["served"] == 40
    assert champion["served"] == challenger["shadow"]
    assert min(champion["served"], challenger["served"]) > 5
    assert champion["errors"] == challenger["errors"] == 0
    assert 0 < champion["latency_ms"]["p50"] <= champion["latency_ms"]["p95"] <= champion["latency_ms"]["p99"]
    assert champion["mean_score"] != challenger["mean_score"]

    # Top-1 agreement, by the models themselves.
    models = [relevance.load(path) for path in saved.values()]
    best = {
        query: [TITLES[np.argmax(model.score([query] * 3, TITLES).expected)] for model in models]
        for query in ("cat", "dog", "heart")
    }
    asked = canary["top1_agreement"]
    agree = [query for query, (one, other) in best.items() if one == other]
    assert asked == pytest.approx(len(agree) / 3, abs=0.2)


@pytest.fixture
def started(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the step use the server that already runs: one real start in these tests is enough."""
    monkeypatch.setattr("serm.serving.server.running", lambda *_: nullcontext(lambda: client))


@pytest.mark.usefixtures("window", "started")
@pytest.mark.parametrize("gate", ["error", "failed", "inconclusive"])
def test_one_that_did_not_pass_gets_none_but_is_tried(tmp_path: Path, saved: dict[str, Path], gate: str) -> None:
    canary, manifest = _deploy(tmp_path, saved, gate)
    assert canary["traffic_percent"] == manifest["spec"]["canary"][0]["trafficPercent"] == 0
    assert gate in canary["reason"]
    assert canary["variants"]["challenger"]["served"] == 0
    assert canary["variants"]["challenger"]["shadow"] == 40


@pytest.mark.usefixtures("window", "started")
def test_one_that_passed_but_is_too_slow_here_gets_no_traffic(tmp_path: Path, saved: dict[str, Path]) -> None:
    canary, manifest = _deploy(tmp_path, saved, "passed", max_p95_ms=0.0001)
    assert canary["traffic_percent"] == manifest["spec"]["canary"][0]["trafficPercent"] == 0
    p95 = canary["variants"]["challenger"]["latency_ms"]["p95"]
    assert f"took up to {p95} ms here, and serving.max_p95_ms is 0.0001" in canary["reason"]
    assert (canary["gate"], canary["variants"]["challenger"]["served"]) == ("passed", 0)


@pytest.mark.usefixtures("window", "started")
def test_a_request_that_fails_fails_the_step(
    tmp_path: Path, saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serm.serving.replay._parts", lambda request: [[{"query": request.query}]])
    with pytest.raises(UserError, match="80 of 80 replayed requests failed; the first, champion: HTTP 400"):
        _deploy(tmp_path, saved, "passed")
    assert not (tmp_path / "out").exists()


def test_requests_are_whole_and_drawn_by_seed(window: Path) -> None:
    def drawn(seed: int) -> list[Request]:
        cycle = CycleSettings(start=START, end=START + timedelta(days=1))
        return sample(window, Settings(cycle=cycle, serving=ServingSettings(requests=30, seed=seed)))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(drawn(1)) == 30
    for request in drawn(1):
        first = ["cat", "dog", "heart"].index(request.query)  # session % 3, as is the first document shown
        assert request.documents == tuple(TITLES[first:] + TITLES[:first])


@pytest.mark.usefixtures("started")
def test_long_empty_and_many_documents_are_tried_as_any_other(tmp_path: Path, saved: dict[str, Path]) -> None:
    titles = ["", "cat", *(f"{TITLES[n % 3]} {n}" for n in range(318))]
    bodies = ["", "", *("red heart \u00e9 " * 2000 for _ in range(318))]
    _window(tmp_path / "validated", titles, bodies, searches=3)
    canary, _ = _deploy(tmp_path, saved, "passed")
    assert {variant["errors"] for variant in canary["variants"].values()} == {0}


def test_the_golden_batch_takes_long_and_empty_texts(client: httpx.Client, saved: dict[str, Path]) -> None:
    model = relevance.load(saved["challenger"])
    documents = ("", "cat", "red heart " * 2000, "\n" * 20_000 + "dog", "dog", "\u3000" * 5_000 + "x" * 3_000_000)
    found = trial.check(lambda: client, model, [Request("u", query, documents) for query in ("cat", "", "dog " * 9999)])
    assert (found.lost, found.refused) == ("", "")
    assert found.difference < 1e-4  # sums in bf16 move a little with the batch
    one, other = model.score(["cat"] * 2, documents[3:5]).expected
    assert one == other  # what stands behind twenty thousand empty lines is read


def test_no_gate_result(tmp_path: Path, saved: dict[str, Path], window: Path) -> None:
    settings = Settings(cycle=CycleSettings(start=START, end=START + timedelta(days=1)))
    with pytest.raises(UserError, match="run the evaluate step before"):
        deploy(
            saved["champion"], saved["challenger"].parent, window, tmp_path / "evaluated", tmp_path / "out", settings
        )


# --- a new model --------------------------------------------------------------------------------------------------


def test_a_new_model_takes_over_without_a_failed_request_and_a_bad_one_does_not(
    client: httpx.Client, saved: dict[str, Path], tmp_path: Path
) -> None:
    instances = [{"query": query, "document": document} for query, document in PAIRS]
    path = saved["challenger"]
    tiny_models.save(tmp_path / "new", tmp_path / "base", 7)
    models = [relevance.load(one) for one in (path, tmp_path / "new")]
    scores = {one.version: one.score(*map(list, zip(*PAIRS, strict=True))).expected for one in models}
    (server,) = (one for one in psutil.Process().children() if f"challenger={path}" in one.cmdline())
    stopped, answered = threading.Event(), threading.Barrier(4, timeout=60)  # each asks the old model once

    def ask() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
            while not stopped.is_set():
                answer = _v1(own, instances, "challenger")
                assert answer.status_code == 200
                found.append(answer.json())
                if len(found) == 1:
                    answered.wait()
                time.sleep(0.01)
        return found

    def swap(swaps: float, outcome: str) -> None:
        name = f'serm_model_swaps_total{{model_name="challenger",outcome="{outcome}"}} {swaps}'
        server.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while name not in client.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask) for _ in range(3)]
        answered.wait()
        old = path.rename(tmp_path / "old")
        try:
            (tmp_path / "new").rename(path)
            swap(1.0, "swapped")
            after = _v1(client, instances, "challenger").json()
            config = json.loads((path / "config.json").read_text())
            config["golden"]["expected"][0] += 1
            (path / "config.json").write_text(json.dumps(config))
            swap(1.0, "kept")
            kept = _v1(client, instances, "challenger").json()
        finally:
            stopped.set()
            shutil.rmtree(path)
            old.rename(path)
            swap(2.0, "swapped")
    answers = [answer for one in asked for answer in one.result()]
    assert after["model_version"] == kept["model_version"] == models[1].version
    assert {answer["model_version"] for answer in answers} == scores.keys()
    for answer in answers:  # each was scored by the model that it names
        found = [one["score"] for one in answer["predictions"]]
        assert found == pytest.approx(scores[answer["model_version"]], abs=1e-3)
