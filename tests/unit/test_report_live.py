"""The report beside a running cycle: what runs is told, the report follows history, only this machine is answered."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import report_history

from serm.layout import RUNNING
from serm.report import live
from serm.workspace.lock import holder, writing
from serm.workspace.running import Journal, running

AT = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_history.write(tmp_path_factory.mktemp("live") / "shop", cycles=1)


@pytest.fixture
def port(workspace: Path, tmp_path: Path) -> Iterator[int]:
    with live.listen(workspace, tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, host: str = "127.0.0.1", verb: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(verb, path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_a_running_cycle_is_told_step_by_step(tmp_path: Path) -> None:
    (tmp_path / ".serm").mkdir()
    journal = Journal(tmp_path, "cycle-0002")
    journal.begin("ingest", True)
    journal.begin("validate", False)
    journal.begin("drift", False)
    with writing(tmp_path, "serm evolve"):
        now = running(tmp_path)
        assert (now.verb, now.tag, now.ended) == ("serm evolve", "cycle-0002", None)
        told = live.stages(now, None, now.begun[-1].at + timedelta(seconds=83))
        assert [(one.name, one.state) for one in told[:4]] == [
            ("ingest", "cached"),
            ("validate", "done"),
            ("drift", "runs"),
            ("mine", "next"),
        ]
        assert told[2].took == "1 min 23 s"
    stopped = live.stages(running(tmp_path), None, AT)
    assert [one.state for one in stopped if one.name == "drift"] == ["stopped"]
    journal.end()
    assert [one.state for one in live.stages(running(tmp_path), None, AT)] == ["cached", "done", "done"]


def test_a_lock_of_a_process_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".serm").mkdir()
    assert holder(tmp_path) == {}
    with writing(tmp_path, "serm mine"):
        assert holder(tmp_path)["verb"] == "serm mine"
        written = (tmp_path / ".serm/lock").read_text(encoding="utf-8")
    (tmp_path / ".serm/lock").write_text(written.replace('"since": "2', '"since": "1'), encoding="utf-8")
    assert holder(tmp_path) == {}  # the number is another process's by now


@pytest.mark.parametrize("text", ["", "[]", '{"tag": 1}', '{"tag": "x", "steps": [{"step": "mine", "at": "noon"}]}'])
def test_a_torn_journal_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / ".serm").mkdir()
    (tmp_path / RUNNING).write_text(text, encoding="utf-8")
    assert running(tmp_path).begun == ()


def test_the_report_is_served_and_follows_history(port: int, workspace: Path) -> None:
    status, headers, page = ask(port, "/")
    assert status == 200
    assert headers["X-Frame-Options"] == "DENY"
    assert 'href="now"' in page
    assert "cycle-0007" not in page
    (workspace / "history" / "cycle-0007").mkdir()
    (workspace / "history" / "cycle-0007" / "ingest.json").write_text("{}", encoding="utf-8")
    assert "cycle-0007" in ask(port, "/")[2]
    assert "Nothing runs" in ask(port, "/now")[2]


@pytest.mark.parametrize(
    ("path", "host", "verb", "status"),
    [
        ("/", "evil.example", "GET", 421),
        ("/../../etc/passwd", "127.0.0.1", "GET", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", "127.0.0.1", "GET", 404),
        ("/cycle-0001/", "127.0.0.1", "GET", 404),
        ("/", "127.0.0.1", "HEAD", 405),
        ("/", "127.0.0.1", "POST", 501),
    ],
)
def test_what_is_not_the_report_is_not_served(port: int, path: str, host: str, verb: str, status: int) -> None:
    assert ask(port, path, host, verb)[0] == status
