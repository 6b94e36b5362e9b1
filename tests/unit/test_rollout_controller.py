"""The controller: the ramp as users' numbers have it, and what crashes, other hands and failing backends do to it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from file_traffic import FileTraffic
from typer.testing import CliRunner

from serm import cli
from serm.errors import UserError
from serm.rollout import controller, look, record
from serm.rollout.decision import Decision, Health
from serm.rollout.estimates import Estimate
from serm.rollout.metrics import METRICS
from serm.settings import EngineSettings, RolloutSettings

START = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = RolloutSettings(steps=(1, 10, 50), unwatched=("errors", "latency"))
ENGINE = EngineSettings()
NAME = "cycle-0003"


@dataclass
class Users:
    """What the log will say: users a step in each group, and lifts of the challenger."""

    lifts: dict[str, float] = field(default_factory=dict)
    a_step: int = 5000

    def read(self, log: Path, stages: Any, until: datetime, settings: RolloutSettings, on: Any) -> Any:
        n = self.a_step * len(stages)
        values = {
            name: Estimate(name, (n, n), 0.4 * (1 + METRICS[name].better * self.lifts.get(name, 0)), 0.4, 25e-8, 0)
            for name in settings.metrics
        }
        return look.Seen([(self.a_step, self.a_step)] * len(stages), 0, values)


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    found = Users()
    monkeypatch.setattr(look, "read", found.read)
    return found


@pytest.fixture
def traffic(tmp_path: Path) -> FileTraffic:
    return FileTraffic(tmp_path / "traffic")


def begin(tmp_path: Path, traffic: FileTraffic) -> record.Record:
    return controller.start(tmp_path / "rollout", NAME, SETTINGS, traffic, START)


def tick(tmp_path: Path, traffic: FileTraffic, day: float, **more: Any) -> controller.Tick:
    at = START + timedelta(days=day)
    return controller.tick(tmp_path / "rollout", NAME, tmp_path / "log", ENGINE, traffic, at, **more)


def saved(tmp_path: Path) -> record.Record:
    return record.load(tmp_path / "rollout" / f"{NAME}.json")


def test_a_better_challenger_goes_up_step_by_step_to_all_users(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    users.lifts = {"satisfied_clicks": 0.03}
    begin(tmp_path, traffic)
    done = [tick(tmp_path, traffic, day) for day in (0.5, 1, 1.5, 2, 3, 4)]
    actions = [one.decision.action if one.decision else None for one in done]
    assert actions == ["hold", "advance", "hold", "advance", "promote", None]
    assert traffic.seen == [0, 1, 10, 50, 100]
    assert saved(tmp_path).outcome == "promoted"
    assert [stage.percent for stage in saved(tmp_path).stages] == [1, 10, 50, 100]


def test_a_worse_one_comes_back_and_stays_back(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    tick(tmp_path, traffic, 1)
    users.lifts = {"satisfied_clicks": -0.05}
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"
    users.lifts = {}
    assert tick(tmp_path, traffic, 5).decision is None
    assert traffic.seen == [0, 1, 10, 0]
    told = saved(tmp_path).decisions[-1]
    assert "satisfied_clicks is confidently worse: 0.3800 against 0.4000" in told.reasons[0]
    assert told.findings["satisfied_clicks"]["p_worse"] < 0.05


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    before = (tmp_path / "rollout" / f"{NAME}.json").read_bytes()
    tried = tick(tmp_path, traffic, 1, dry_run=True)
    assert isinstance(tried.decision, Decision)
    assert (tried.decision.action, tried.patch) == ("advance", {"percent": 10})
    assert traffic.read().percent == 1
    assert (tmp_path / "rollout" / f"{NAME}.json").read_bytes() == before


def lines_of(work: Any) -> int:
    """How many lines of the controller and the record ``work`` goes through."""
    return _killed_at(10**9, work)


def _killed_at(line: int, work: Any) -> int:
    """Do ``work`` in a child that is gone, without any clean-up, before its ``line``; return the lines it came to."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.endswith(("rollout/controller.py", "rollout/record.py", "serm/atomic.py")):
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.write(write, str(count).encode())
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
            os.write(write, str(count).encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        return int(told.read())


@pytest.mark.parametrize("end", ["start", "advance", "promote", "roll_back"])
def test_a_kill_before_any_line_is_made_good_by_the_next_call(
    end: str, users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    """Lines of the controller, of the record and of the atomic write; all of them were tried once, here every 13th."""

    def prepare(where: Path) -> tuple[FileTraffic, Any]:
        where.mkdir()
        made = FileTraffic(where / "traffic")
        if end == "start":
            return made, lambda: begin(where, made)
        begin(where, made)
        users.lifts = {}
        if end == "promote":
            tick(where, made, 1)
            tick(where, made, 2)
        users.lifts = {"satisfied_clicks": {"advance": 0.0, "promote": 0.03, "roll_back": -0.05}[end]}
        return made, lambda: tick(where, made, 3)

    expected = {"start": (1, "running"), "advance": (10, "running"), "promote": (100, "promoted")}
    percent, outcome = expected.get(end, (0, "rolled_back"))
    made, work = prepare(tmp_path / "whole")
    lines = lines_of(work)
    assert lines > 40
    for line in range(1 + len(end), lines + 1, 13):
        where = tmp_path / str(line)
        made, work = prepare(where)
        _killed_at(line, work)
        between = made.read().percent
        assert between in ({"start": 0, "advance": 1, "promote": 50, "roll_back": 1}[end], percent)
        if (where / "rollout" / f"{NAME}.json").exists() and saved(where).outcome == "running" and end != "start":
            done = tick(where, made, 3)
            assert done.record.outcome == outcome
        elif end == "start" and not ((where / "rollout" / f"{NAME}.json").exists() and saved(where).stages):
            work()
        found = saved(where)
        assert (made.read().percent, found.percent, found.outcome, found.pending) == (percent, percent, outcome, None)


def test_a_backend_that_is_down_leaves_the_decision_for_the_next_tick(
    users: Users, traffic: FileTraffic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, traffic)
    users.lifts = {"satisfied_clicks": -0.05}

    def refuse(*_: Any) -> Any:
        raise UserError("the backend does not answer")

    with monkeypatch.context() as down:
        down.setattr(traffic, "set", refuse)
        with pytest.raises(UserError, match="does not answer"):
            tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 1
    users.lifts = {}
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"  # decided is decided
    assert traffic.read().percent == 0


def test_health_that_cannot_be_read_holds_and_does_not_hide_what_users_say(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    traffic.fares = UserError("Prometheus does not answer")
    held = tick(tmp_path, traffic, 1).decision
    assert held is not None
    assert (held.action, held.reasons) == ("hold", ("Prometheus does not answer",))
    users.lifts = {"satisfied_clicks": -0.05}
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"


def test_a_log_that_cannot_be_read_is_told_and_does_not_hide_a_server_that_fails(
    traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    traffic.fares = {"challenger": Health(1000, 0, 40.0), "champion": Health(1000, 0, 40.0)}
    for dry_run in (True, False):
        with pytest.raises(UserError, match="log"):
            tick(tmp_path, traffic, 1, dry_run=dry_run)
    (held,) = saved(tmp_path).decisions
    assert held.action == "hold"
    assert str(tmp_path / "log") in held.reasons[0]
    traffic.fares = {"challenger": Health(1000, 1000, 40.0), "champion": Health(1000, 0, 40.0)}
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"
    assert "100.00% of the challenger's requests fail" in saved(tmp_path).decisions[-1].reasons[0]


def test_another_hand_that_takes_the_challenger_back_is_obeyed_and_one_that_gives_it_more_is_told(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    traffic.write(NAME, 30)
    with pytest.raises(UserError, match="the challenger has 30 % of 'cycle-0003', where the record says 1 %"):
        tick(tmp_path, traffic, 1)
    traffic.write(NAME, 0)
    assert tick(tmp_path, traffic, 1).record.outcome == "rolled_back"
    assert "by somebody else" in saved(tmp_path).decisions[-1].reasons[0]


def test_a_hand_between_a_killed_tick_and_the_next_is_seen(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    cut_short = saved(tmp_path).with_(pending=record.Pending(action="advance", percent=10, since=START))
    record.save(tmp_path / "rollout" / f"{NAME}.json", cut_short)
    traffic.write(NAME, 30)
    with pytest.raises(UserError, match="the challenger has 30 %"):
        tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 30
    traffic.write(NAME, 0)
    assert tick(tmp_path, traffic, 1).record.outcome == "rolled_back"
    assert traffic.read().percent == 0


def test_a_second_writer_a_second_rollout_and_a_challenger_with_traffic_are_refused(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    traffic.write("older", 20)
    with pytest.raises(UserError, match="the challenger has 20 % of the traffic of 'older' already"):
        begin(tmp_path, traffic)
    traffic.write("older", 100)
    begin(tmp_path, traffic)
    with pytest.raises(UserError, match="was begun before"):
        begin(tmp_path, traffic)
    with pytest.raises(UserError, match="this rollout is running; end it"):
        controller.start(tmp_path / "rollout", "cycle-0004", SETTINGS, traffic, START)
    with (
        record.one_writer(tmp_path / "rollout"),
        pytest.raises(UserError, match="another `serm rollout` is at work here"),
    ):
        tick(tmp_path, traffic, 1)


def test_settings_that_change_on_the_way_change_nothing(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    assert saved(tmp_path).settings == SETTINGS


def test_a_damaged_record_and_a_name_that_leads_elsewhere_are_told(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no such rollout; begin it"):
        tick(tmp_path, traffic, 1)
    (tmp_path / "rollout" / f"{NAME}.json").write_text('{"experiment": "x"')
    with pytest.raises(UserError, match="no rollout's record"):
        tick(tmp_path, traffic, 1)
    with pytest.raises(UserError, match="give a name of letters"):
        controller.start(tmp_path, "../x", SETTINGS, traffic, START)


def test_a_person_may_end_it_and_the_command_line_shows_why(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    controller.abort(tmp_path / "rollout", NAME, "complaints", traffic, START)
    assert traffic.read().percent == 0
    with pytest.raises(UserError, match="has ended already"):
        controller.abort(tmp_path / "rollout", NAME, "again", traffic, START)
    (tmp_path / "params.yaml").write_text(
        'cycle: {number: 3, start: "2018-01-01T00:00:00Z", end: "2019-01-01T00:00:00Z"}'
    )
    told = CliRunner().invoke(cli.app, ["rollout", "status", "--workspace", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "rolled back" in told.output
    assert "complaints" in told.output
    shown = CliRunner().invoke(cli.app, ["rollout", "status", "--json", "--workspace", str(tmp_path)])
    assert json.loads(shown.output)["outcome"] == "rolled_back"


def test_a_challenger_that_the_gate_refused_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        'cycle: {number: 3, start: "2018-01-01T00:00:00Z", end: "2019-01-01T00:00:00Z"}'
    )
    (tmp_path / "cycle" / "deploy").mkdir(parents=True)
    (tmp_path / "cycle" / "deploy" / "deploy.json").write_text('{"gate": "failed"}')
    refused = CliRunner().invoke(cli.app, ["rollout", "start", "--workspace", str(tmp_path)])
    assert isinstance(refused.exception, UserError)
    assert "the gate's result is 'failed'" in str(refused.exception)
