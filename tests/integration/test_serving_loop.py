"""The loop closes: what the transformer logged, as UBI or as CloudEvents, is the next window, without a raw id."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cloudevents.conversion import to_json
from cloudevents.http import CloudEvent, from_http
from listening import Posted, listening
from transforming import KEY, TITLES, ask, logged, transforming, write_judged, write_ramp

from serm import contracts, relevance, stream
from serm.errors import UserError
from serm.rollout.assignment import Experiment, assign, serves
from serm.serving.transformer.events import Events
from serm.settings import CycleSettings, EngineSettings, Settings, StreamSettings
from serm.settings.secret import hashed


def _events(came: list[Posted]) -> list[CloudEvent]:
    return [from_http(one.headers, one.body) for one in came]


def _of_agent(asked: dict[str, Any], answer: dict[str, Any]) -> list[CloudEvent]:
    """Return what KServe's agent posts of a request and its answer (pkg/logger of KServe): the bodies as they are."""
    about = {"source": "http://localhost:9081/", "id": uuid.uuid4().hex, "component": "transformer", "metadata": "{}"}
    about |= {"inferenceservicename": "relevance", "namespace": "search", "endpoint": "default"}
    kinds = {"request": json.dumps(asked).encode(), "response": answer}  # in JSON as data_base64, and as data
    return [CloudEvent({**about, "type": f"org.kubeflow.serving.inference.{k}"}, data) for k, data in kinds.items()]


def _write_events(log: Path, events: list[CloudEvent]) -> None:
    """Write events as a collector keeps them: a line each, those of a request in no order, one delivered twice."""
    log.mkdir(exist_ok=True)
    lines = [to_json(event) for event in reversed([*events, events[-1]])]
    (log / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize("way", ["its own log", "its CloudEvents", "the CloudEvents of KServe's agent"])
def test_what_was_served_and_clicked_is_the_next_window_with_every_row_joined(
    way: str,
    upstream: str,
    variants: dict[str, Path],
    stored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERM_USER_KEY", KEY.decode())
    log, served = tmp_path / "log", []
    ramp = write_ramp(tmp_path / "ramp.yaml", 50)
    with listening() as (sink, came):
        events = Events(sink, "relevance", 100)
        judged = write_judged(tmp_path, {("dog face", "d2"): 3, ("dog face", "d1"): 0, ("red heart", "d4"): 3})
        with transforming(upstream, log, ramp, stored, events, judged) as (client, _, _):
            for number in range(24):
                asked = {"client_id": f"client-{number}", "session_id": f"session-{number}", "locale": "en"}
                asked |= {"query": list(TITLES.values())[number % 3], "documents": list(TITLES), "top_n": 3}
                served.append((asked, ask(client, **asked).json()))
    if way != "its own log":
        log = tmp_path / "events"
        of_agent = [one for pair in served for one in _of_agent(*pair)]
        _write_events(log, of_agent if "agent" in way else _events(came))
    if "agent" not in way:  # which keeps what it sees
        kept = "".join(file.read_text() for file in log.iterdir())
        assert not any(f"{name}-{number}" in kept for name in ("client", "session") for number in range(24))
    clicks = [
        {
            "action_name": "click",
            "query_id": answer["query_id"],
            "client_id": asked["client_id"],
            "session_id": asked["session_id"],
            "timestamp": datetime.now(UTC).isoformat(),
            "event_attributes": {"object": {"object_id": answer["results"][1]["id"]}, "position": {"ordinal": 1}},
        }
        for asked, answer in served
    ]
    (log / "clicks.jsonl").write_text("".join(json.dumps(click) + "\n" for click in clicks))
    today = datetime.now(UTC)
    cycle = CycleSettings(start=today - timedelta(days=1), end=today + timedelta(days=1))
    stream.ingest(
        log, tmp_path / "out", Settings(cycle=cycle, stream=StreamSettings(), engine=EngineSettings(threads=1))
    )
    assert any("grade" in one for _, answer in served for one in answer["results"])  # so some are ranked by it too
    summary = json.loads((tmp_path / "out/ingest.json").read_text())
    assert (summary["rows_kept"], summary["lines"]["quarantined"], summary["warnings"]) == (72, 0, [])
    assert summary["lines"]["duplicate"] == (way != "its own log")

    versions = {name: relevance.load_scorer(path).version for name, path in variants.items()}
    rows = contracts.read(tmp_path / "out/impressions", contracts.IMPRESSIONS).to_pylist()
    found = {(row["query_id"], row["position"]): row for row in rows}
    seen = set()
    for asked, answer in served:
        user, session = hashed(asked["client_id"], KEY), hashed(asked["session_id"], KEY)
        variant = assign(user, Experiment("cycle-0007"), 50)  # whoever reads the log can tell who saw what
        seen.add(variant)
        version = versions[serves(variant)]
        assert (answer["variant"], answer["ranked_by"], answer["model_version"]) == (variant, serves(variant), version)
        for position, result in enumerate(answer["results"], 1):
            row = found.pop((hashed(answer["query_id"], KEY), position))
            assert (row["doc_id"], row["user_id"], row["session_id"]) == (result["id"], user, session)
            assert (row["query"], row["locale"]) == (asked["query"], "en")
            assert (row["variant"], row["model_version"]) == (variant, version)
            assert row["score"] == pytest.approx(result["score"])  # the model's, also where a judgment ranks
            assert row["clicked"] == (position == 2)
    assert not found
    assert seen == {"control", "challenger"}


def test_events_are_those_of_kserves_logger_and_a_sink_that_fails_holds_up_nothing(
    upstream: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "search")
    with listening() as (sink, came):
        events = Events(sink, "relevance", 9)
        with transforming(upstream, tmp_path / "a", documents=stored, events=events) as (client, _, _):
            answer = ask(client).json()
    told = _events(came)
    assert [one["type"].rpartition(".") for one in told] == [
        ("org.kubeflow.serving.inference", ".", kind) for kind in ("request", "response")
    ]
    for event in told:
        assert (event["id"], event["component"], event["endpoint"]) == (answer["query_id"], "transformer", "default")
        assert (event["inferenceservicename"], event["namespace"], event["metadata"]) == ("relevance", "search", "{}")
        assert {"source", "time", "recordedtime", "specversion"} <= event.get_attributes().keys()
    assert (told[0].data["query"], told[0].data["documents"]) == ("cat", list(TITLES))
    assert told[1].data == logged(tmp_path / "a")[0]

    gone = Events(sink, "relevance", 1)  # nobody listens there any more
    with transforming(upstream, tmp_path / "b", documents=stored, events=gone) as (client, _, _):
        assert [ask(client).json()["logged"] for _ in range(5)] == [True] * 5
    assert len(logged(tmp_path / "b")) == 5
    with pytest.raises(UserError, match="--events 'file:///x': expected http"):
        Events("file:///x", "relevance", 1)


@pytest.mark.parametrize("query_id", ["für-7", "a\nce-id: b", 'ten % "off"', "検索\u2028"])
def test_a_query_id_that_fits_no_header_is_told_percent_encoded_and_so_are_the_next_pages(
    upstream: str, stored: Path, tmp_path: Path, query_id: str
) -> None:
    with listening() as (sink, came):
        events = Events(sink, "relevance", 9)
        with transforming(upstream, tmp_path, documents=stored, events=events) as (client, _, _):
            assert ask(client, query_id=query_id).status_code == 200
            assert ask(client, query_id="next").status_code == 200
    ids = [unquote(event["id"]) for event in _events(came)]
    assert ids == [query_id, query_id, "next", "next"]
    assert _events(came)[1].data["query_id"] == query_id
