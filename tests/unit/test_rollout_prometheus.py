"""The servers' health, asked of Prometheus' API on a real socket."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from serm.errors import UserError
from serm.local_server import LocalServer
from serm.rollout.prometheus import health
from serm.settings.rollout import ByVariant, PrometheusSettings

NOW = datetime(2026, 3, 3, tzinfo=UTC)
PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"
ASKED = {"requests": "requests{{variant}}[{window}]", "errors": "errors{{variant}}", "latency": "seconds{{variant}}"}


@contextmanager
def answering(answers: dict[str, Any], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append(body["query"][0])
            found = next((value for name, value in answers.items() if name in asked[-1]), None)
            series = found if isinstance(found, list) else [] if found is None else [{"value": [0, str(found)]}]
            said = answers.get("whole") or {"status": "success", "data": {"resultType": "vector", "result": series}}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with LocalServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def histogram(counts: dict[str, float]) -> list[dict[str, Any]]:
    return [{"metric": {"le": le}, "value": [0, str(count)]} for le, count in counts.items()]


def read(url: str) -> Any:
    return health(PrometheusSettings(url=url, **ASKED), NOW - timedelta(hours=2), NOW)


def test_both_servers_are_asked_for_what_they_did_since_the_step_began() -> None:
    answers = {
        "requests{challenger}": 120.4,
        "errors{challenger}": 3,
        "seconds{challenger}": histogram({"0.1": 90, "0.2": 99.6, "+Inf": 100}),
        "requests{champion}": 900,
    }
    with answering(answers) as (url, asked):
        found = read(url)
    challenger, champion = found["challenger"], found["champion"]
    assert (challenger.requests, challenger.errors, challenger.p95_ms) == (120, 3, 150.0)
    assert challenger.within == ((100.0, 90), (200.0, 100), (math.inf, 100))
    assert (champion.requests, champion.errors, champion.p95_ms) == (900, 0, None)
    assert "requests{challenger}[7200s]" in asked


def test_failures_that_no_server_counted_as_requests_are_requests_too() -> None:
    with answering({"errors{challenger}": 70, "requests{champion}": 900}) as (url, _):
        assert (read(url)["challenger"].requests, read(url)["challenger"].errors) == (70, 70)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"whole": {"status": "error", "error": "bad query"}}, "refuses 'requests{champion}.*': bad query"),
        ({"requests": [{"value": [0, "1"]}] * 2}, "gives 2 numbers, where one is wanted"),
        ({"seconds": 0.25}, "gives no histogram; ask for `sum by"),
        ({"seconds": histogram({"0.1": 1, "0.2": 2})}, "gives no histogram"),
        ({"seconds": histogram({"0.1": 1, "+Inf": 2}) * 2}, "gives no histogram"),
        ({"whole": {"status": "success", "data": None}}, "answers as no Prometheus does"),
        ({"whole": ["?"]}, "answers as no Prometheus does"),
    ],
)
def test_what_is_no_number_is_told(answers: dict[str, Any], told: str) -> None:
    with answering(answers) as (url, _), pytest.raises(UserError, match=told):
        read(url)


def test_a_prometheus_that_is_away_is_told() -> None:
    with answering({}) as (url, _):
        pass
    with pytest.raises(UserError, match="Prometheus does not answer"):
        read(url)


def test_the_queries_of_the_page_are_settings() -> None:
    found = re.search(r"```yaml\n(rollout:\n  prometheus:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    settings = PrometheusSettings.model_validate(yaml.safe_load(found[1])["rollout"]["prometheus"])
    for query in (settings.requests, settings.errors, settings.latency):
        assert isinstance(query, ByVariant)
        for one in (query.champion, query.challenger):
            assert "relevance-{experiment}-predictor" in one  # the canary's pods, which the champion's are not
            assert "[{window}]" in one
        assert 'pod!~"relevance-{experiment}-predictor' in query.champion


def test_a_canary_is_found_by_its_rollouts_name_and_the_champion_by_not_having_it() -> None:
    both = {"champion": 'seconds{pod!~"r-{experiment}"}', "challenger": 'seconds{pod=~"r-{experiment}"}'}
    answers = {
        'seconds{pod!~"r-cycle-0003"}': histogram({"0.5": 95, "+Inf": 100}),
        'seconds{pod=~"r-cycle-0003"}': histogram({"0.25": 95, "0.5": 100, "+Inf": 100}),
    }
    with answering(answers) as (url, _):
        settings = PrometheusSettings.model_validate({"url": url, **ASKED, "latency": both})
        found = health(settings, NOW - timedelta(hours=2), NOW, "cycle-0003")
    assert (found["champion"].p95_ms, found["challenger"].p95_ms) == (500.0, 250.0)


def test_a_percentile_beyond_the_last_bound_is_not_known() -> None:
    with answering({"seconds": histogram({"0.5": 90, "+Inf": 100})}) as (url, _):
        assert read(url)["champion"].p95_ms is None
