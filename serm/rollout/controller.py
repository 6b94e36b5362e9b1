"""The controller: reads what users did, decides, and sets the traffic; a crash at any line does no harm.

More traffic is written down before it is asked for, so that a tick which was cut short is ended by the next one. Less
traffic is asked for first and written down after: nothing may keep a challenger up that should go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.rollout import look, prometheus
from serm.rollout.decision import Action, Decision, Health, Look, decide
from serm.rollout.record import OUTCOMES, Decided, Pending, Record, Stage, load, now_or, one_writer, path_of, save
from serm.rollout.split import Variant
from serm.rollout.traffic import State, Traffic
from serm.settings import EngineSettings, RolloutSettings


@dataclass(frozen=True)
class Tick:
    """What a tick did, or in a dry run would do."""

    record: Record
    decision: Decision | None
    """None: the rollout had ended before."""
    patch: Mapping[str, Any] | None = None
    """In a dry run what would be sent to the backend; None where nothing would."""


def start(
    records: Path,
    experiment: str,
    settings: RolloutSettings,
    traffic: Traffic,
    at: datetime | None = None,
    *,
    note: str = "",
) -> Record:
    """Begin a rollout: give the challenger the first step's share.

    A start that was cut short is ended by calling it again.

    Args:
        records: the directory of the rollouts' records.
        experiment: its name, by which users are placed; a cycle's.
        settings: kept in the record until the end.
        traffic: the backend.
        at: the present.
        note: for whoever reads the record.

    Raises:
        UserError: it was begun before, another one is running, the challenger has traffic already, or the backend
            fails.
    """
    path = path_of(records, experiment)
    with one_writer(records):
        if path.exists():
            record = load(path)
            if record.stages or record.outcome != "running":
                raise UserError(f"{path}: this rollout was begun before; look at its status, or take another name.")
        else:
            _alone(records)
            seen = traffic.read()
            if seen.percent not in (0, 100) or (seen.percent == 100 and seen.experiment in ("", experiment)):
                raise UserError(
                    f"the challenger has {seen.percent} % of the traffic of {seen.experiment!r} already; set it to 0 "
                    "before a rollout starts."
                )
            pending = Pending(action="start", percent=settings.steps[0], since=now_or(at))
            record = Record(experiment=experiment, note=note, settings=settings, pending=pending)
            save(path, record)
        return _finish(path, record, traffic)


def tick(
    records: Path,
    experiment: str,
    log: Path,
    on: EngineSettings,
    traffic: Traffic,
    at: datetime | None = None,
    *,
    dry_run: bool = False,
) -> Tick:
    """Look at the users, decide, and set the traffic; call it as often as you like.

    Args:
        records: the directory of the rollouts' records.
        experiment: its name.
        log: the joined log (see ``look.read``).
        on: the engine that reads it.
        traffic: the backend.
        at: the present.
        dry_run: change nothing, and return what would be sent.

    Raises:
        UserError: there is no such rollout, somebody else gave the challenger traffic, or the backend fails; or the log
            cannot be read and nothing else takes the challenger back: the look is in the record then. The traffic is as
            it was, or as decided; the next tick goes on.
    """
    path, now = path_of(records, experiment), now_or(at)
    if dry_run:
        return _tried(load(path), log, on, traffic, now)
    with one_writer(records):
        record = load(path)
        if record.pending is not None:
            record = _finish(path, record, traffic)
        if record.outcome != "running":
            return Tick(record, None)
        seen = traffic.read()
        if gone := _taken_back(record, seen, now):
            record = _ended(record, gone)
            save(path, record)
            return Tick(record, None)
        found, blind = _look(record, log, on, traffic, now)
        decision = decide(found, record.settings)
        done = _do(path, record, found, decision, traffic, seen)
        if blind is not None and decision.action == "hold":
            raise blind
        return Tick(done, decision)


def abort(records: Path, experiment: str, reason: str, traffic: Traffic, at: datetime | None = None) -> Record:
    """Take the challenger back to 0 now, whatever its users say.

    Raises:
        UserError: there is no such rollout, it has ended, or the backend fails.
    """
    path, now = path_of(records, experiment), now_or(at)
    with one_writer(records):
        record = load(path)
        if record.outcome != "running":
            raise UserError(f"{path}: this rollout has ended already ({record.outcome}).")
        traffic.set(experiment, 0, traffic.read())
        record = _ended(record, Decided(at=now, action="roll_back", percent=0, reasons=(reason,)))
        save(path, record)
        return record


def _alone(records: Path) -> None:
    for other in sorted(records.glob("*.json")):
        if load(other).outcome == "running":
            raise UserError(f"{other}: this rollout is running; end it before another one starts.")


def _look(
    record: Record, log: Path, on: EngineSettings, traffic: Traffic, now: datetime
) -> tuple[Look, UserError | None]:
    """Return what can be seen, and why the users cannot where they cannot: the servers are judged all the same."""
    stages = [stage.since for stage in record.stages]
    health: Mapping[Variant, Health] | None = None
    unread: tuple[str, ...] = ()
    blind = None
    try:
        asked = record.settings.prometheus
        health = prometheus.health(asked, stages[-1], now, record.experiment) if asked is not None else traffic.health()
    except UserError as error:  # what users say may still take the challenger back
        unread = (str(error),)
    try:
        seen = look.read(log, stages, now, record.settings, on)
    except UserError as error:
        blind, unread = error, (*unread, str(error))
        seen = look.Seen([(0, 0)] * len(stages), 0, {})
    return Look(
        now,
        record.percent,
        stages[0],
        stages[-1],
        seen.users,
        seen.crossed,
        seen.estimates,
        health,
        unread,
        seen.segments,
    ), blind


def _do(path: Path, record: Record, found: Look, decision: Decision, traffic: Traffic, seen: State) -> Record:
    decided = Decided(
        at=found.at,
        action=decision.action,
        percent=decision.percent,
        reasons=decision.reasons,
        users=tuple(found.users),
        crossed=found.crossed,
        findings=dict(decision.findings),
    )
    record = record.with_(decisions=(*record.decisions, decided))
    if decision.action == "hold":
        save(path, record)
        return record
    pending = Pending(action=decision.action, percent=decision.percent, since=found.at)
    record = record.with_(pending=pending)
    if decision.percent >= record.percent:
        save(path, record)
        return _finish(path, record, traffic)
    try:
        traffic.set(record.experiment, decision.percent, seen)
    finally:
        save(path, record)  # where that failed, the next tick tries again
    return _finish(path, record, traffic)


def _finish(path: Path, record: Record, traffic: Traffic) -> Record:
    """Do what is pending, which may be done already, and write down that it is done."""
    pending = record.pending
    if pending is None:
        return record
    seen = traffic.read()
    # Less is asked for whatever our share is; more only where it is the one that was looked at.
    done = (seen.experiment, seen.percent) == (record.experiment, pending.percent)
    less = seen.experiment == record.experiment and pending.percent < record.percent
    if record.stages and not (done or less) and (gone := _taken_back(record, seen, pending.since)):
        record = _ended(record, gone)
        save(path, record)
        return record
    traffic.set(record.experiment, pending.percent, seen)
    stages = (*record.stages, Stage(percent=pending.percent, since=pending.since))
    outcome = "running" if pending.action == "start" else OUTCOMES.get(pending.action, "running")
    record = record.with_(stages=stages, pending=None, outcome=outcome)
    save(path, record)
    return record


def _taken_back(record: Record, seen: State, now: datetime) -> Decided | None:
    """Return that somebody else set the challenger to 0, which is a roll-back; other shares that are not ours raise."""
    if seen.experiment == record.experiment and seen.percent == record.percent:
        return None
    if seen.percent == 0:
        told = "the traffic was set to 0 by somebody else, or by a tick that was cut short"
        return Decided(at=now, action="roll_back", percent=0, reasons=(told,))
    raise UserError(
        f"the challenger has {seen.percent} % of {seen.experiment!r}, where the record says {record.percent} % of "
        f"{record.experiment!r}; set it back, or end the rollout with `serm rollout abort`."
    )


def _ended(record: Record, decided: Decided) -> Record:
    action: Action = "roll_back" if decided.action == "start" else decided.action
    stages = (*record.stages, Stage(percent=decided.percent, since=decided.at))
    decisions = (*record.decisions, decided)
    return record.with_(stages=stages, pending=None, outcome=OUTCOMES[action], decisions=decisions)


def _tried(record: Record, log: Path, on: EngineSettings, traffic: Traffic, now: datetime) -> Tick:
    seen = traffic.read()
    if record.pending is not None:
        return Tick(record, None, traffic.patch(record.experiment, record.pending.percent, seen))
    if record.outcome != "running" or _taken_back(record, seen, now):
        return Tick(record, None)
    found, blind = _look(record, log, on, traffic, now)
    decision = decide(found, record.settings)
    if blind is not None and decision.action == "hold":
        raise blind
    sent = traffic.patch(record.experiment, decision.percent, seen) if decision.percent != seen.percent else None
    return Tick(record, decision, sent)
