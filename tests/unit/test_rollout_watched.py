"""Once users have decided for the challenger it has all of them, and its servers are watched before it is promoted."""

# ruff: noqa: F811

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from file_traffic import FileTraffic
from ramping import NAME, SETTINGS, START, Users, fares, saved, tick, traffic, users  # noqa: F401

from serm.errors import UserError
from serm.report import ramp as pages
from serm.rollout import controller
from serm.rollout.decision import Look, decide
from serm.rollout.health import Health
from serm.rollout.record import Fared, Record, load, save
from serm.rollout.split import Variant
from serm.rollout.traffic import NotReady
from serm.rollout.verdict import verdict
from serm.settings import RolloutSettings

WATCHED = SETTINGS.model_copy(update={"unwatched": ("latency",), "watch_days": 2.0})


def at_all_users(users: Users, traffic: FileTraffic, tmp_path: Path, settings: RolloutSettings = WATCHED) -> None:
    """A ramp that users decided for on the third day, whose servers took 1000 requests a day each."""
    users.lifts = {"satisfied_clicks": 0.03}
    traffic.fares = fares((0, 0), (0, 0))
    controller.start(tmp_path / "rollout", NAME, settings, traffic, START)
    for day in (1, 2, 3):
        traffic.fares = fares((1000 * day, 0), (1000 * day, 0))
        done = tick(tmp_path, traffic, day)
    assert (done.record.outcome, done.record.percent, traffic.read().percent) == ("running", 100, 100)
    assert done.decision is not None
    assert done.decision.action == "advance"
    assert "satisfied_clicks is confidently better" in done.decision.reasons[0]


def test_one_that_serves_all_users_well_for_the_days_is_promoted_whatever_the_log_says_by_then(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    at_all_users(users, traffic, tmp_path)
    users.lifts = {"satisfied_clicks": -0.5}  # of whom? there is no control any more
    traffic.fares = fares((5000, 3), (3000, 0))
    held = tick(tmp_path, traffic, 4)
    assert held.decision is not None
    assert (held.decision.action, held.decision.percent) == ("hold", 100)
    assert held.decision.reasons == ("all users have had it for 1.0 of 2 days",)
    assert verdict(tick(tmp_path, traffic, 4.5, dry_run=True)).action == "hold"
    assert saved(tmp_path).decisions[-1].users == saved(tmp_path).decisions[-2].users
    traffic.fares = fares((7000, 5), (3000, 0))
    assert tick(tmp_path, traffic, 5.1).record.outcome == "promoted"
    assert (traffic.read().percent, traffic.seen) == (100, [0, 1, 10, 50, 100])
    shown = pages.page(tmp_path / "rollout" / f"{NAME}.json", tmp_path / "ramp.html").read_text()
    assert "all users have had it" in shown


@pytest.mark.parametrize(
    ("served", "why"),
    [
        (fares((3500, 100), (3000, 0)), "20.00% of the challenger's requests fail, 0.00% of the champion's"),
        (fares((3000, 0), (4000, 0)), "the challenger's server has taken no request at 100 %"),
    ],
    ids=["fails under all the load", "is dead, and the champion answers"],
)
def test_one_that_does_harm_with_all_users_goes_back_to_the_old_champion(
    served: Any, why: str, users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    at_all_users(users, traffic, tmp_path)
    traffic.fares = served
    back = tick(tmp_path, traffic, 3.1).record
    assert (back.outcome, traffic.read().percent) == ("rolled_back", 0)
    assert why in back.decisions[-1].reasons[0]


def test_one_that_is_slow_under_all_the_load_goes_back(tmp_path: Path) -> None:
    """The last bound of a histogram is infinite, and stays so in the record, which is JSON."""
    within = ((50.0, 990), (200.0, 1000), (math.inf, 1000))
    kept = Record(experiment=NAME, settings=WATCHED, champion=Fared.of(Health(1000, 0, 48.0, within)))
    save(tmp_path / "record.json", kept)
    before = load(tmp_path / "record.json").champion
    assert before is not None
    slow = Health(5000, 0, 150.0, ((50.0, 3000), (200.0, 4100), (math.inf, 5000)))
    of: dict[Variant, Health] = {"challenger": slow, "champion": Health(0, 0, None)}
    look = Look(START + timedelta(days=4), 100, START, START + timedelta(days=3), [], 0, {}, of, before=before.health())
    back = decide(look, WATCHED)
    assert back.action == "roll_back"
    assert "900 of 5000 are slower than 200 ms" in back.reasons[0]


def test_what_cannot_be_read_with_all_users_holds_and_a_server_that_is_not_ready_goes_back(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    at_all_users(users, traffic, tmp_path)
    traffic.fares = UserError("the proxy is away")
    assert tick(tmp_path, traffic, 9).record.decisions[-1].reasons == ("the proxy is away",)
    traffic.fares = None
    assert "nothing is known of the servers' errors" in tick(tmp_path, traffic, 9.1).record.decisions[-1].reasons[0]
    traffic.fares = NotReady("the canary is not ready")
    assert tick(tmp_path, traffic, 9.2).record.outcome == "running"
    assert tick(tmp_path, traffic, 9.3).record.outcome == "rolled_back"


@pytest.mark.parametrize(
    "settings", [WATCHED.model_copy(update={"watch_days": 0.0}), SETTINGS], ids=["0 days", "blind"]
)
def test_without_days_or_anything_that_is_measured_users_decide_alone(
    settings: RolloutSettings, users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="promoted"):
        at_all_users(users, traffic, tmp_path, settings)
    assert (saved(tmp_path).outcome, traffic.read().percent) == ("promoted", 100)


def test_a_person_takes_a_promoted_challenger_back_and_its_cycle_makes_no_champion(
    users: Users, traffic: FileTraffic, tmp_path: Path
) -> None:
    """Of users nobody tells at 100 %: by ``serm rollout abort``, as long as its traffic is still this rollout's."""
    at_all_users(users, traffic, tmp_path, WATCHED)
    traffic.fares = fares((9000, 0), (3000, 0))
    assert tick(tmp_path, traffic, 6).record.outcome == "promoted"
    traffic.write("cycle-0004", 5)
    with pytest.raises(UserError, match=r"has ended already \(promoted\)"):
        controller.abort(tmp_path / "rollout", NAME, "complaints", traffic, START)
    traffic.write(NAME, 100)
    traffic.stuck = True
    with pytest.raises(controller.Unset):
        controller.abort(tmp_path / "rollout", NAME, "complaints", traffic, START)
    assert saved(tmp_path).outcome == "running"
    traffic.stuck = False
    assert tick(tmp_path, traffic, 7).record.outcome == "rolled_back"
    assert traffic.read().percent == 0
    with pytest.raises(UserError, match=r"has ended already \(rolled_back\)"):
        controller.abort(tmp_path / "rollout", NAME, "again", traffic, START)
