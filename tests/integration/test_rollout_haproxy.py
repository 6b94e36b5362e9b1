"""A real HAProxy, configured as documented, in front of two servers: it splits users as SERM does, and changes live."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_haproxy import PAGE, Proxy

from serm.errors import UserError
from serm.rollout import controller, look, record, traffic
from serm.rollout.assignment import Experiment, assign, serves
from serm.rollout.estimates import Estimate
from serm.rollout.metrics import METRICS
from serm.rollout.traffic.haproxy import lines
from serm.settings import EngineSettings, RolloutSettings

USERS = [*(f"user-{n}" for n in range(120)), "Zoë", ""]


_SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"challenger")
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


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


def test_the_configuration_that_ships_is_the_documented_one() -> None:
    found = re.search(r"```haproxy\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert (files("serm.rollout.traffic") / "haproxy.cfg").read_text(encoding="utf-8") == found[1]


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
        turn = 0
        while len(answers) < 300 and not faults:
            turn += 1
            backend.set(f"cycle-{turn % 3}", turn % 101, backend.read())
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert turn > 5
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
        for _ in range(200):  # it counts a request once its answer is sent
            if health and health["champion"].requests:
                break
            time.sleep(0.02)
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


def test_where_the_challengers_server_dies_no_request_is_lost_and_its_rollout_goes_back(
    servers: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings = RolloutSettings(steps=(50,), min_requests=30, planned_users=100)
    monkeypatch.setattr(look, "read", lambda *_: look.Seen([(0, 0)], 0, {}))
    dying = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    request.addfinalizer(dying.kill)
    assert dying.stdout is not None
    proxy = Proxy(tmp_path, servers[0], int(dying.stdout.readline()))
    request.addfinalizer(proxy.kill)
    proxy.map.write_text(lines("cycle-0003", 0))
    proxy.start()
    begun = datetime(2026, 3, 2, tzinfo=UTC)
    with traffic.connect("haproxy", proxy.options, "", "") as backend, httpx.Client(base_url=proxy.url) as client:
        controller.start(tmp_path / "rollout", "cycle-0003", settings, backend, begun)
        before = [ask(client, user) for user in USERS]
        dying.kill()
        dying.wait()
        after = [ask(client, user) for user in USERS]
        assert {served for served, _ in before} == {"champion", "challenger"}
        assert [group for _, group in before] == [group for _, group in after]
        assert {served for served, _ in after} == {"champion"}
        found = controller.tick(
            tmp_path / "rollout", "cycle-0003", tmp_path / "log", EngineSettings(), backend, begun + timedelta(hours=1)
        ).record
        assert (found.outcome, backend.read().percent) == ("rolled_back", 0)
        assert "of the challenger's requests fail" in found.decisions[-1].reasons[0]


def test_controller_server_and_proxy_killed_in_turn_lose_no_request_and_leave_no_wrong_state(
    servers: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Clients ask all the time, and again where the proxy itself is gone, as a search service does."""
    settings = RolloutSettings(steps=(10, 25, 50), min_requests=1, max_error_rise=1, unwatched=("latency",))

    def read(log: Path, stages: Any, *_: Any) -> look.Seen:
        n = 5000 * len(stages)
        better = {
            name: Estimate(name, (n, n), 0.4 * (1 + 0.03 * METRICS[name].better), 0.4, 25e-8, 0)
            for name in settings.metrics
        }
        return look.Seen([(5000, 5000)] * len(stages), 0, better)

    monkeypatch.setattr(look, "read", read)
    dying = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    request.addfinalizer(dying.kill)
    assert dying.stdout is not None
    proxy = Proxy(tmp_path, servers[0], int(dying.stdout.readline()))
    request.addfinalizer(proxy.kill)
    proxy.map.write_text(lines("cycle-0003", 0))
    proxy.start()
    begun, records = datetime(2026, 3, 2, tzinfo=UTC), tmp_path / "rollout"
    answers: list[tuple[str, str, str]] = []
    faults: list[str] = []
    done = threading.Event()

    def load(number: int) -> None:
        with httpx.Client(base_url=proxy.url) as client:
            while not done.is_set():
                user = USERS[(len(answers) + number) % len(USERS)]
                try:
                    answers.append((user, *ask(client, user)))
                except httpx.TransportError:
                    done.wait(0.02)
                except Exception as error:
                    faults.append(repr(error))

    def tick(day: int, backend: Any) -> Any:
        return controller.tick(
            records, "cycle-0003", tmp_path / "log", EngineSettings(), backend, begun + timedelta(day)
        )

    def asked(more: int) -> None:
        until = len(answers) + more
        while len(answers) < until and not faults:
            done.wait(0.01)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
    with traffic.connect("haproxy", proxy.options, "", "") as backend:
        controller.start(records, "cycle-0003", settings, backend, begun)
        with httpx.Client(base_url=proxy.url) as client:
            answers += [(user, *ask(client, user)) for user in USERS]
        child = os.fork()
        if child == 0:  # a controller that is killed once the proxy has its new share, before it is written down
            real = backend.set

            def last(*given: Any) -> Any:
                real(*given)
                os.kill(os.getpid(), signal.SIGKILL)

            monkeypatch.setattr(backend, "set", last)
            try:
                tick(1, backend)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert (backend.read().percent, record.load(records / "cycle-0003.json").percent) == (25, 10)
        for thread in threads:
            thread.start()
        asked(60)
        found = tick(1, backend).record  # ends what the killed one began, and sees that its step is new
        assert (found.percent, found.pending, backend.read().percent) == (25, None, 25)
        dying.kill()
        dying.wait()
        asked(60)
        assert tick(3, backend).record.percent == 50
        proxy.kill()
        with pytest.raises(UserError, match="runtime API does not answer"):
            tick(4, backend)
        proxy.start()
        asked(60)
        assert (backend.read().percent, tick(5, backend).record.outcome, backend.read().percent) == (
            50,
            "promoted",
            100,
        )
        asked(60)
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    groups = {share: {u: assign(u, Experiment("cycle-0003"), share) for u in USERS} for share in (10, 25, 50, 100)}
    assert all(any(of[user] == group for of in groups.values()) for user, _, group in answers)
    assert {served for _, served, group in answers if group != "challenger"} == {"champion"}
