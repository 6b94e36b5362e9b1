"""A watch goes on until a rollout is decided, and a verdict over HTTP is what a tick would decide."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serm.errors import UserError
from serm.rollout import watch as watching
from serm.rollout.controller import Tick, Unset
from serm.rollout.decision import ENDS, Decision
from serm.rollout.record import Decided, Outcome, Pending, Record
from serm.rollout.verdict import Asked, Verdict, server, verdict
from serm.rollout.watch import watch
from serm.settings import RolloutSettings

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def record(outcome: Outcome = "running", **more: Any) -> Record:
    return Record(experiment="cycle-0003", outcome=outcome, settings=RolloutSettings(), **more)


def test_a_watch_goes_on_past_failing_ticks_until_users_have_decided() -> None:
    coming: list[Record | UserError] = [record(), UserError("the proxy is away"), record(), record("promoted")]
    told: list[Any] = []

    def once() -> Tick:
        found = coming.pop(0)
        if isinstance(found, UserError):
            raise found
        return Tick(found, None)

    ended = watch(once, 0.0, threading.Event(), told.append)
    assert ended is not None
    assert ended.outcome == "promoted"
    assert [type(one).__name__ for one in told] == ["Record", "UserError", "Record", "Record"]


def test_a_roll_back_that_the_backend_did_not_take_waits_for_no_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.0)
    coming: list[Record | UserError] = [Unset("the proxy is away"), Unset("still"), record("rolled_back")]

    def once() -> Tick:
        found = coming.pop(0)
        if isinstance(found, UserError):
            raise found
        return Tick(found, None)

    ended = watch(once, 3600.0, threading.Event(), lambda _: None)
    assert ended is not None
    assert ended.outcome == "rolled_back"


TOLD = """
import os, signal, sys
from serm.rollout.controller import Tick
from serm.rollout.record import Record
from serm.rollout.watch import until_told, watch
from serm.settings import RolloutSettings

number = int(sys.argv[1])

def once():
    print("begun")
    os.kill(os.getpid(), number)
    print("ended")
    return Tick(Record(experiment="cycle-0003", outcome="running", settings=RolloutSettings()), None)

before = signal.getsignal(number)
with until_told() as stop:
    assert watch(once, 60.0, stop, lambda _: None) is None
assert signal.getsignal(number) is before
print("as before")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_tick_under_way_end_and_no_other_begin(number: int) -> None:
    """In a process of its own: what goes wrong with a signal ends it."""
    done = subprocess.run([sys.executable, "-c", TOLD, str(int(number))], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split("\n")) == (0, ["begun", "ended", "as before", ""]), done.stderr


def test_a_verdict_is_a_dry_ticks_decision_and_stays_when_the_rollout_has_ended() -> None:
    found = verdict(Tick(record(), Decision("advance", 10, ("fine",))))
    assert (found.action, found.percent, found.ended) == ("advance", 10, False)
    last = Decided(at=NOW, action="roll_back", percent=0, reasons=("worse",))
    assert verdict(Tick(record("rolled_back", decisions=(last,)), None)) == Verdict("roll_back", 0, ("worse",), True)
    assert verdict(Tick(record("promoted"), None)).percent == 100
    with pytest.raises(UserError, match="`serm rollout tick` ends what was begun"):
        verdict(Tick(record(pending=Pending(action="advance", percent=5, since=NOW)), None))


@pytest.fixture
def found() -> list[Verdict | UserError]:
    return [Verdict("hold", 5, ("<b>not yet</b>",), False)]


@pytest.fixture
def client(found: list[Verdict | UserError]) -> Iterator[httpx.Client]:
    def find() -> Verdict:
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]

    with server(Asked(find, 0.0), "127.0.0.1", 0) as answering:
        threading.Thread(target=answering.serve_forever, args=(0.01,), daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{answering.server_port}") as made:
            yield made
        answering.shutdown()


def test_argo_reads_the_action_out_of_the_answer(client: httpx.Client) -> None:
    answer = client.get("/verdict")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"action": "hold", "percent": 5, "reasons": ["<b>not yet</b>"], "ended": False}


def test_flagger_reads_the_status_of_what_it_posts(client: httpx.Client, found: list[Verdict | UserError]) -> None:
    go, back = "/verdict?if=advance&if=promote", "/verdict?if=roll_back&if=error&if=inconclusive"
    payload = {"name": "relevance", "namespace": "search", "phase": "Progressing", "metadata": {}}
    assert [client.post(one, json=payload).status_code for one in (go, back)] == [409, 409]
    found[0] = Verdict("promote", 100, (), False)
    assert [client.post(one, json=payload).status_code for one in (go, back)] == [200, 409]
    found[0] = Verdict("roll_back", 0, (), True)
    assert [client.post(one, json=payload).status_code for one in (go, back)] == [409, 200]
    found[0] = UserError("the log is away")
    told = client.post(go, json=payload)  # neither up nor back where nothing can be told
    assert (told.status_code, told.json()) == (503, {"error": "the log is away"})
    assert client.post(back, json=payload).status_code == 503


def test_the_documented_manifests_ask_for_what_the_server_answers(client: httpx.Client) -> None:
    blocks = re.findall(r"```yaml\n(apiVersion: (?:argo|flag).*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    argo, watching, flagger = [one for block in blocks for one in yaml.safe_load_all(block)]
    (metric,) = argo["spec"]["metrics"]
    told = re.findall(r'"(\w+)"', metric["successCondition"] + metric["failureCondition"])
    assert set(told) == set(ENDS)  # until then the run goes on
    hooks = {hook["type"]: hook["url"] for hook in flagger["spec"]["analysis"]["webhooks"]}
    assert set(hooks) == {"confirm-traffic-increase", "confirm-promotion", "rollback"}
    for url in (metric["provider"]["web"]["url"], *hooks.values()):
        assert client.post(url.partition(":8011")[2], json={}).status_code in (200, 409)
    (metric,) = watching["spec"]["metrics"]
    (container,) = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["serm", "rollout", "watch"]


def test_what_is_asked_otherwise_is_refused_and_the_server_goes_on(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404
    assert client.get("/verdict?if=advnace").status_code == 400
    assert client.post("/verdict", content=b"x" * 1_000_001).status_code == 413
    assert client.request("DELETE", "/verdict").status_code == 501
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_verdict_is_found_anew_only_after_its_time() -> None:
    count = iter(range(9))
    ask = Asked(lambda: Verdict("hold", next(count), (), False), 3600.0)
    assert [ask().percent for _ in range(3)] == [0, 0, 0]
    ask = Asked(lambda: Verdict("hold", next(count), (), False), 0.0)
    assert [ask().percent for _ in range(3)] == [1, 2, 3]
