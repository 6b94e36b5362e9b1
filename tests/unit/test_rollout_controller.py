"""The controller: the ramp as users' numbers have it, and what crashes, other hands and failing backends do to it."""

# ruff: noqa: F811

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from file_traffic import FileTraffic
from ramping import NAME, SETTINGS, START, Users, begin, saved, tick, traffic, users  # noqa: F401
from typer.testing import CliRunner

from serm import cli
from serm.errors import UserError
from serm.rollout import controller, record
from serm.rollout.decision import Decision
from serm.rollout.verdict import verdict


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


@pytest.mark.parametrize("end", ["start", "advance", "promote", "roll_back", "inconclusive", "error"])
def test_a_kill_before_any_line_is_made_good_by_the_next_call(
    end: str, users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    """Lines of the controller, of the record and of the atomic write; all of them were tried once, here every 19th."""

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
        users.lifts = {"satisfied_clicks": {"promote": 0.03, "roll_back": -0.05}.get(end, 0.0)}
        users.lost = 1000 if end == "error" else 0
        return made, lambda: tick(where, made, day)

    day = 28 if end == "inconclusive" else 3
    expected = {"start": (1, "running"), "advance": (10, "running"), "promote": (100, "promoted")}
    expected |= {"roll_back": (0, "rolled_back"), "inconclusive": (0, "inconclusive"), "error": (0, "error")}
    percent, outcome = expected[end]
    made, work = prepare(tmp_path / "whole")
    lines = lines_of(work)
    assert lines > 40
    for line in range(1 + len(end), lines + 1, 19):
        where = tmp_path / str(line)
        made, work = prepare(where)
        _killed_at(line, work)
        between = made.read().percent
        assert between in ({"start": 0, "promote": 50}.get(end, 1), percent)
        if (where / "rollout" / f"{NAME}.json").exists() and saved(where).outcome == "running" and end != "start":
            done = tick(where, made, day)
            assert done.record.outcome == outcome
        elif end == "start" and not ((where / "rollout" / f"{NAME}.json").exists() and saved(where).stages):
            work()
        found = saved(where)
        assert (made.read().percent, found.percent, found.outcome, found.pending) == (percent, percent, outcome, None)
        if end != "start":
            assert found.decisions[-1 if end != "advance" else 0].findings, "what it rests on is kept"


def test_a_backend_that_is_down_leaves_the_decision_for_the_next_tick(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    users.lifts = {"satisfied_clicks": -0.05}
    traffic.stuck = True
    with pytest.raises(controller.Unset, match="does not answer"):
        tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 1
    users.lifts = {}
    traffic.stuck, traffic.down = False, True
    with pytest.raises(controller.Unset, match="does not answer"):
        tick(tmp_path, traffic, 1)
    traffic.down = False
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"  # decided is decided
    assert traffic.read().percent == 0


def test_a_step_lasts_from_when_the_backend_took_its_share(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    traffic.stuck = True
    with pytest.raises(controller.Unset):
        tick(tmp_path, traffic, 1)
    traffic.stuck = False
    late = tick(tmp_path, traffic, 3)
    assert late.record.stages[-1] == record.Stage(percent=10, since=START + timedelta(days=3))
    assert late.decision is not None
    assert late.decision.action == "hold"


def test_a_full_disk_keeps_no_challenger_up_and_gives_it_no_more(
    users: Users, traffic: FileTraffic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, traffic)

    def full(*_: Any) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(controller, "save", full)
    with pytest.raises(UserError, match="no space left"):
        tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 1
    users.lifts = {"satisfied_clicks": -0.05}
    with pytest.raises(UserError, match="no space left"):
        tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 0


def test_what_is_kept_elsewhere_is_kept_before_more_traffic_and_holds_no_roll_back_up(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    """As the record of a run on Kubeflow, which is pushed: a lost push must leave no share that it does not tell."""
    kept: list[record.Record] = []

    def lost(_: record.Record) -> None:
        raise UserError("the push was lost")

    begin(tmp_path, traffic)
    before = saved(tmp_path)
    with pytest.raises(UserError, match="the push was lost"):
        tick(tmp_path, traffic, 1, keep=lost)
    assert traffic.read().percent == 1
    record.save(tmp_path / "rollout" / f"{NAME}.json", before)  # the next run's clone
    tick(tmp_path, traffic, 1, keep=kept.append)
    assert [(one.percent, one.pending and one.pending.percent) for one in kept] == [(1, 10), (10, None)]
    users.lifts = {"satisfied_clicks": -0.05}
    with pytest.raises(UserError, match="the push was lost"):
        tick(tmp_path, traffic, 1.1, keep=lost)
    assert traffic.read().percent == 0


def test_another_hand_that_takes_the_challenger_back_is_obeyed_and_one_that_gives_it_more_is_told(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    begin(tmp_path, traffic)
    traffic.write(NAME, 30)
    with pytest.raises(UserError, match="the challenger has 30 % of 'cycle-0003', where the record says 1 %"):
        tick(tmp_path, traffic, 1)
    traffic.write(NAME, 0)
    assert verdict(tick(tmp_path, traffic, 1, dry_run=True)).action == "roll_back"
    assert saved(tmp_path).outcome == "running"
    assert tick(tmp_path, traffic, 1).record.outcome == "rolled_back"
    assert "by somebody else" in saved(tmp_path).decisions[-1].reasons[0]


def test_a_share_above_the_record_s_is_taken_back_where_users_fare_worse_and_never_raised(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    """As a record whose push was lost leaves it: the traffic is a step further than the record says."""
    begin(tmp_path, traffic)
    traffic.write(NAME, 10)
    users.lifts = {"satisfied_clicks": 0.05}
    with pytest.raises(UserError, match="the challenger has 10 %"):
        tick(tmp_path, traffic, 1)
    assert traffic.read().percent == 10
    users.lifts = {"satisfied_clicks": -0.05}
    tried = tick(tmp_path, traffic, 1, dry_run=True)
    assert tried.decision is not None
    assert tried.decision.action == "roll_back"
    assert tick(tmp_path, traffic, 1).record.outcome == "rolled_back"
    assert traffic.read().percent == 0


def test_traffic_of_another_experiment_is_nobody_s_to_take(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    traffic.write("by-hand", 30)
    users.lifts = {"satisfied_clicks": -0.05}
    with pytest.raises(UserError, match="30 % of 'by-hand'"):
        tick(tmp_path, traffic, 1)
    ended = controller.abort(tmp_path / "rollout", NAME, "seen enough", traffic, START)
    assert (ended.outcome, ended.percent) == ("rolled_back", 0)
    assert "those of 'by-hand', and were left as they are" in ended.decisions[-1].reasons[1]
    assert (traffic.read().experiment, traffic.read().percent) == ("by-hand", 30)


def test_a_start_that_was_cut_short_takes_no_traffic_that_another_one_got_meanwhile(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    traffic.stuck = True
    with pytest.raises(UserError, match="does not answer"):
        begin(tmp_path, traffic)
    traffic.stuck = False
    traffic.write("by-hand", 30)
    with pytest.raises(UserError, match="30 % of the traffic of 'by-hand' already"):
        begin(tmp_path, traffic)
    with pytest.raises(UserError, match="30 % of the traffic of 'by-hand' already"):
        tick(tmp_path, traffic, 1)
    traffic.write("by-hand", 0)
    assert begin(tmp_path, traffic).percent == 1


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
