"""A real HAProxy, configured as documented, in front of two servers: it splits users as SERM does, and changes live."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_haproxy import PAGE, Proxy

from serm.errors import UserError
from serm.local_server import LocalServer
from serm.rollout import controller, look, traffic
from serm.rollout.assignment import Experiment, assign, serves
from serm.rollout.traffic.haproxy import lines
from serm.settings import EngineSettings, RolloutSettings

USERS = [*(f"user-{n}" for n in range(120)), "Zoë", ""]


_SERVER = """
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"challenger")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        print("taken", flush=True)
        time.sleep(60)
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def answering(name: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status = 500 if self.path == "/fail" else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with LocalServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
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


def test_a_request_with_a_body_that_a_killed_server_had_taken_is_answered_by_the_champion(
    servers: tuple[int, int], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Clients send a body after its headers, and only a whole request can be asked again."""
    dying = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    request.addfinalizer(dying.kill)
    assert dying.stdout is not None
    proxy = Proxy(tmp_path, servers[0], int(dying.stdout.readline()))
    request.addfinalizer(proxy.kill)
    proxy.map.write_text(lines("cycle-0003", 100))
    proxy.start()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nx-user-id: ann\r\nContent-Length: 4\r\n\r\n")
        time.sleep(0.1)
        connection.sendall(b"body")
        assert dying.stdout.readline() == "taken\n"
        dying.kill()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
