"""What the servers do decides too: in this step, since the last look, and where users cannot be read."""

# ruff: noqa: F811

from __future__ import annotations

from pathlib import Path

import pytest
from file_traffic import FileTraffic
from ramping import Users, begin, fares, saved, tick, traffic, users  # noqa: F401

from serm.errors import UserError
from serm.rollout.traffic import NotReady


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
    traffic.fares = fares((0, 0), (0, 0))
    begin(tmp_path, traffic)
    traffic.fares = fares((1000, 0), (1000, 0))
    for dry_run in (True, False):
        with pytest.raises(UserError, match="log"):
            tick(tmp_path, traffic, 1, dry_run=dry_run)
    (held,) = saved(tmp_path).decisions
    assert held.action == "hold"
    assert str(tmp_path / "log") in held.reasons[0]
    traffic.fares = fares((2000, 1000), (2000, 0))
    assert tick(tmp_path, traffic, 1.1).record.outcome == "rolled_back"
    assert "50.00% of the challenger's requests fail" in saved(tmp_path).decisions[-1].reasons[0]


def test_what_a_server_did_before_the_step_counts_neither_for_nor_against_it(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    traffic.fares = fares((50_000, 20_000), (50_000, 0))  # an earlier challenger's
    begin(tmp_path, traffic)
    traffic.fares = fares((51_000, 20_000), (51_000, 0))
    assert tick(tmp_path, traffic, 1).record.percent == 10
    traffic.fares = fares((900_000, 20_000), (900_000, 0))
    assert tick(tmp_path, traffic, 2).record.percent == 50
    traffic.fares = fares((901_000, 20_500), (901_000, 0))  # half of this step's fail, of all since the start 0.06 %
    assert tick(tmp_path, traffic, 2.1).record.outcome == "rolled_back"
    assert "50.00% of the challenger's requests fail" in saved(tmp_path).decisions[-1].reasons[0]


def test_a_server_that_begins_to_fail_late_in_a_long_step_is_taken_back_at_the_next_look(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    traffic.fares = fares((0, 0), (0, 0))
    begin(tmp_path, traffic)
    traffic.fares = fares((400_000, 0), (400_000, 0))
    users.a_step = 300  # too few for the next step
    assert tick(tmp_path, traffic, 9).record.outcome == "running"
    traffic.fares = fares((401_000, 200), (401_000, 0))  # 0.05 % of the step's
    assert tick(tmp_path, traffic, 9.1).record.outcome == "rolled_back"
    assert "since the last look, 20.00%" in saved(tmp_path).decisions[-1].reasons[0]


def test_counters_that_begin_anew_lose_nothing_that_was_seen(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    traffic.fares = fares((0, 0), (0, 0))
    begin(tmp_path, traffic)
    traffic.fares = fares((150, 60), (5000, 0))
    tick(tmp_path, traffic, 0.1)
    traffic.fares = fares((100, 40), (4000, 0))  # the proxy was restarted
    assert tick(tmp_path, traffic, 0.2).record.outcome == "rolled_back"
    assert "40.00% of the challenger's requests fail, 0.00%" in saved(tmp_path).decisions[-1].reasons[0]


def test_a_challenger_that_is_not_ready_for_long_comes_back(users: Users, traffic: FileTraffic, tmp_path: Path) -> None:
    begin(tmp_path, traffic)
    traffic.fares = NotReady("the canary is not ready")
    assert tick(tmp_path, traffic, 0.1).record.decisions[-1].reasons[0] == "the canary is not ready"
    traffic.fares = None
    tick(tmp_path, traffic, 0.2)
    assert saved(tmp_path).unready_since is None
    traffic.fares = NotReady("the canary is not ready")
    assert tick(tmp_path, traffic, 0.3).record.outcome == "running"
    assert tick(tmp_path, traffic, 0.4).record.outcome == "rolled_back"
    assert "has not been ready since 2026-03-02 07:12 UTC" in saved(tmp_path).decisions[-1].reasons[0]
