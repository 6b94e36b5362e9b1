"""A real HAProxy, configured as documented, in front of two servers: it splits users as SERM does, and changes live."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from real_haproxy import Proxy

from serm import contracts
from serm.errors import UserError
from serm.rollout import controller, traffic
from serm.rollout.assignment import Experiment, assign, serves
from serm.rollout.traffic.haproxy import lines
from serm.settings import EngineSettings, RolloutSettings

USERS = [*(f"user-{n}" for n in range(120)), "Zoë", ""]


@contextmanager
def answering(name: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            status = 500 if self.path == "/fail" else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[int, int]]:
    with answering("champion") as champion, answering("challenger") as challenger:
        yield champion, challenger


@pytest.fixture
def proxy(servers: tuple[int, int], tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path, *servers)
    made.map.write_text(lines("cycle-0003", 0))
    made.start()
    yield made
    made.kill()


def ask(client: httpx.Client, user: str, path: str = "/") -> tuple[str, str]:
    """Return who answered, and the group that the proxy put the user in."""
    answer = client.get(path, headers={"x-user-id": user.encode()})
    return answer.text, answer.headers["x-serm-group"]


def test_it_splits_user_for_user_as_serm_does_whatever_the_share_and_the_experiment(proxy: Proxy) -> None:
    with traffic.connect("haproxy", proxy.options, "", "") as backend, httpx.Client(base_url=proxy.url) as client:
        for experiment, percent in (("cycle-0003", 7), ("Zoë 4", 50), ("cycle-0003", 0), ("cycle-0003", 100)):
            state = backend.set(experiment, percent, backend.read())
            assert (state.experiment, state.percent) == (experiment, percent)
            for user in USERS:
                group = assign(user, Experiment(experiment), percent)
                assert ask(client, user) == (serves(group), group)
        assert client.get("/").text == "champion"  # nobody's request


def test_changes_under_load_fail_no_request_and_never_mix_two_experiments(proxy: Proxy) -> None:
    answers: list[tuple[str, str]] = []
    faults: list[Exception] = []
    done = threading.Event()

    def load(number: int) -> None:
        with httpx.Client(base_url=proxy.url) as client:
            while not done.is_set():
                try:
                    answers.append(ask(client, f"user-{number}"))
                except Exception as error:
                    faults.append(error)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    with traffic.connect("haproxy", proxy.options, "", "") as backend:
        for turn in range(40):
            backend.set(f"cycle-{turn % 3}", turn % 101, backend.read())
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(answers) > 100
    assert all(served == ("challenger" if group == "challenger" else "champion") for served, group in answers)


def test_a_proxy_that_is_killed_comes_back_with_the_share_in_force_and_meanwhile_is_told(proxy: Proxy) -> None:
    with traffic.connect("haproxy", proxy.options, "", "") as backend:
        seen = backend.set("cycle-0003", 20, backend.read())
        proxy.kill()
        with pytest.raises(UserError, match="runtime API does not answer"):
            backend.set("cycle-0003", 50, seen)
        proxy.start()
        assert (backend.read().experiment, backend.read().percent) == ("cycle-0003", 20)
        with pytest.raises(traffic.Conflict):
            backend.set("cycle-0003", 50, traffic.State("cycle-0003", 10))


def test_a_full_disk_keeps_no_challenger_up(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with traffic.connect("haproxy", proxy.options, "", "") as backend:
        seen = backend.set("cycle-0003", 20, backend.read())

        def full(*_: Any) -> None:
            raise UserError("no space left")

        monkeypatch.setattr(traffic.haproxy, "write_text", full)
        with pytest.raises(UserError, match="no space"):
            backend.set("cycle-0003", 50, seen)
        assert backend.read().percent == 20
        with pytest.raises(UserError, match="no space"):
            backend.set("cycle-0003", 0, seen)
        assert backend.read().percent == 0


def test_failed_requests_of_either_server_are_counted_and_a_wrong_socket_is_told(proxy: Proxy, tmp_path: Path) -> None:
    with traffic.connect("haproxy", proxy.options, "", "") as backend, httpx.Client(base_url=proxy.url) as client:
        backend.set("cycle-0003", 100, backend.read())
        for path in ("/", "/fail", "/"):
            ask(client, "user-1", path)
        client.get("/")
        health = backend.health()
    assert health is not None
    assert [(one.requests, one.errors) for one in (health["challenger"], health["champion"])] == [(3, 1), (1, 0)]
    nowhere = {**proxy.options, "socket": str(tmp_path / "nowhere")}
    with (
        traffic.connect("haproxy", nowhere, "", "") as other,
        pytest.raises(UserError, match="runtime API does not answer"),
    ):
        other.read()
    unknown = {**proxy.options, "map": str(tmp_path / "other.map")}
    with traffic.connect("haproxy", unknown, "", "") as other, pytest.raises(UserError, match="refuses show"):
        other.read()


@pytest.mark.parametrize("better", [True, False])
def test_users_of_the_whole_ramp_promote_what_they_like_and_take_back_what_they_do_not(
    proxy: Proxy, tmp_path: Path, better: bool
) -> None:
    """Users (simulated) ask through the proxy and click by who answered; their log decides, day by day."""
    settings = RolloutSettings(
        steps=(20, 50), min_users=40, planned_users=150, guardrails={"abandonment": 0.3}, signals=(), bake_hours=24
    )
    start, records, name = datetime(2026, 3, 2, tzinfo=UTC), tmp_path / "rollout", "cycle-0003"
    rows: list[dict[str, Any]] = []
    with traffic.connect("haproxy", proxy.options, "", "") as backend, httpx.Client(base_url=proxy.url) as client:
        found = controller.start(records, name, settings, backend, start)
        for day in range(6):
            for number in range(200):
                user = f"day {day} user {number}"
                served, group = ask(client, user)
                liked = (number * 7919 % 10) < (8 if (served == "challenger") == better else 3)
                at = start + timedelta(days=day, minutes=number)
                rows.append(_row(user, at, group, liked))
            contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
            at = start + timedelta(days=day + 1)
            engine = EngineSettings(threads=1, memory_gb=1)
            found = controller.step(records, name, tmp_path / "log", engine, backend, at).record
            if found.outcome != "running":
                break
        assert found.outcome == ("promoted" if better else "rolled_back"), found.decisions[-1]
        assert backend.read().percent == (100 if better else 0)
    assert [stage.percent for stage in found.stages] == ([20, 50, 100] if better else [20, 0])
    assert json.loads((records / f"{name}.json").read_text())["outcome"] == found.outcome


def _row(user: str, at: datetime, group: str, liked: bool) -> dict[str, Any]:
    of = {"event_time": at, "query_id": user, "session_id": user, "user_id": user, "variant": group}
    shown = {"locale": "en", "query": "lamp", "doc_id": "d1", "position": 1, "negative_feedback": False}
    return {**of, **shown, "clicked": liked, "dwell_seconds": 60.0 if liked else None}
