"""The controller: reads what users did, decides, and sets the traffic; a crash at any line does no harm.

A change is written down before it is asked for, so that a tick which was cut short is ended by the next one. Less
traffic is asked for also where that cannot be written: nothing may keep a challenger up that should go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.rollout import look, servers
from serm.rollout.decision import Decision, Look, decide
from serm.rollout.record import (
    OUTCOMES,
    Decided,
    Fared,
    Model,
    Pending,
    Record,
    Stage,
    load,
    now_or,
    one_writer,
    path_of,
    running,
    save,
)
from serm.rollout.traffic import State, Traffic
from serm.settings import EngineSettings, RolloutSettings


class Unset(UserError):
    """What was decided is not in force, for the backend failed: soon to be tried again."""


@dataclass(frozen=True)
class Tick:
    """What a tick did, or in a dry run would do."""

    record: Record
    decision: Decision | None
    """None: the rollout had ended before."""
    patch: Mapping[str, Any] | None = None
    """In a dry run what would be sent to the backend; None where nothing would."""


@dataclass(frozen=True)
class _Book:
    """Where a rollout's record is kept."""

    path: Path
    keep: Callable[[Record], None] | None = None

    def save(self, record: Record) -> None:
        """Write the record here, and let whoever called keep it elsewhere."""
        save(self.path, record)
        if self.keep is not None:
            self.keep(record)


def start(
    records: Path,
    experiment: str,
    settings: RolloutSettings,
    traffic: Traffic,
    at: datetime | None = None,
    *,
    note: str = "",
    model: Model | None = None,
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
        model: the challenger, as its cycle's tag pins it.

    Raises:
        UserError: it was begun before, another one is running, the challenger has traffic already, or the backend
            fails.
    """
    path, now = path_of(records, experiment), now_or(at)
    with one_writer(records):
        if path.exists():
            record = load(path)
            if record.stages or record.outcome != "running":
                raise UserError(f"{path}: this rollout was begun before; look at its status, or take another name.")
            seen = traffic.read()
        else:
            if other := running(records):
                raise UserError(
                    f"{path_of(records, other)}: this rollout is running; end it before another one starts."
                )
            seen = traffic.read()
            _require_free(experiment, seen)
            traffic.patch(experiment, settings.steps[0], seen)  # what it would refuse is told before all else
            pending = Pending(action="start", percent=settings.steps[0], since=now)
            record = Record(experiment=experiment, note=note, model=model, settings=settings, pending=pending)
            save(path, record)
        return _begun(_Book(path), record, traffic, seen, now)


def tick(
    records: Path,
    experiment: str,
    log: Path,
    on: EngineSettings,
    traffic: Traffic,
    at: datetime | None = None,
    *,
    dry_run: bool = False,
    keep: Callable[[Record], None] | None = None,
) -> Tick:
    """Look at the users, decide, and set the traffic; call it as often as you like.

    Where the challenger has another share than the record says, it may be taken back but gets no more.

    Args:
        records: the directory of the rollouts' records.
        experiment: its name.
        log: the joined log (see ``look.read``).
        on: the engine that reads it.
        traffic: the backend.
        at: the present.
        dry_run: change nothing, and return what would be sent.
        keep: called with the record each time that it was written, before more traffic is asked for and after less
            was; where the files of this machine are not all that is read next time.

    Raises:
        Unset: the backend fails in what was decided. The traffic is as it was, or as decided; the next tick goes on.
        UserError: there is no such rollout, somebody else gave the challenger traffic, or the backend fails; or the log
            cannot be read and nothing else takes the challenger back: the look is in the record then.
    """
    book, now = _Book(path_of(records, experiment), keep), now_or(at)
    if dry_run:
        return _tried(load(book.path), log, on, traffic, now)
    with one_writer(records):
        record = load(book.path)
        if record.pending is None and record.outcome != "running":
            return Tick(record, None)
        try:
            seen = traffic.read()
        except UserError as error:
            raise (Unset(str(error)) if record.pending else error) from error
        if (pending := record.pending) is not None and (not record.stages or _is_near(record, seen)):
            ended = _finish if record.stages else _begun
            record = ended(book, record, traffic, seen, now)
        elif seen.percent == 0:
            record = _gone(record, now)
            book.save(record)
        if record.outcome != "running":
            return Tick(record, None)
        seen = traffic.read() if pending is not None else seen
        strange = _strange(record, seen)
        if strange is not None and seen.experiment != record.experiment:
            raise strange
        found, blind, fares = _look(record, log, on, traffic, now)
        decision = decide(found, record.settings)
        if strange is not None and decision.percent:
            raise strange
        record = record.with_(served=fares.served, unready_since=fares.unready_since)
        record = _do(book, record, found, decision, traffic, seen)
        if blind is not None and decision.action == "hold":
            raise blind
        return Tick(record, decision)


def abort(records: Path, experiment: str, reason: str, traffic: Traffic, at: datetime | None = None) -> Record:
    """Take the challenger back to 0 now, whatever its users say; traffic of another experiment stays as it is.

    A promoted one goes back too, as long as it has its users by this rollout.

    Raises:
        Unset: the backend fails; the next tick sets it.
        UserError: there is no such rollout, it has ended, or the backend does not answer.
    """
    path, now = path_of(records, experiment), now_or(at)
    with one_writer(records):
        record = load(path)
        seen = traffic.read()
        if record.outcome == "promoted" and seen.experiment == record.experiment and seen.percent:
            record = record.with_(outcome="running")
        if record.outcome != "running":
            raise UserError(f"{path}: this rollout has ended already ({record.outcome}).")
        reasons: tuple[str, ...] = (reason,)
        if seen.experiment not in (record.experiment, "") and seen.percent:
            left = f"the challenger's {seen.percent} % are those of {seen.experiment!r}, and were left as they are"
            record = _ended(record, Decided(at=now, action="roll_back", percent=0, reasons=(*reasons, left)))
            save(path, record)
            return record
        return _set(_Book(path), record, Decided(at=now, action="roll_back", percent=0, reasons=reasons), traffic, seen)


def _require_free(experiment: str, seen: State) -> None:
    if seen.percent not in (0, 100) or (seen.percent == 100 and seen.experiment in ("", experiment)):
        raise UserError(
            f"the challenger has {seen.percent} % of the traffic of {seen.experiment!r} already; set it to 0 "
            "before a rollout starts."
        )


def _look(
    record: Record, log: Path, on: EngineSettings, traffic: Traffic, now: datetime
) -> tuple[Look, UserError | None, servers.Fares]:
    """Return what can be seen, why the users cannot where they cannot, and how the servers fare all the same."""
    stages = [stage.since for stage in record.stages]
    fares = servers.look(record, traffic, now)
    blind = None
    seen = look.Seen([(0, 0)] * len(stages), 0, {})
    if record.percent == 100:  # nobody is left to compare with; the users are those of the look that decided
        seen = look.Seen(list(record.decisions[-1].users), 0, {})
    else:
        try:
            seen = look.read(log, stages, now, record.settings, on)
        except UserError as error:
            blind = error
    found = Look(
        now,
        record.percent,
        stages[0],
        stages[-1],
        seen.users,
        seen.crossed,
        seen.estimates,
        fares.health,
        (*fares.unread, *([str(blind)] if blind else [])),
        seen.segments,
        fares.unready_since,
        servers.looks(record),
        fares.recent,
        record.champion.health() if record.champion is not None else None,
    )
    return found, blind, fares


def _do(book: _Book, record: Record, found: Look, decision: Decision, traffic: Traffic, seen: State) -> Record:
    decided = Decided(
        at=found.at,
        action=decision.action,
        percent=decision.percent,
        reasons=decision.reasons,
        users=tuple(found.users),
        crossed=found.crossed,
        findings=dict(decision.findings),
    )
    if decision.action == "hold":
        record = record.with_(decisions=(*record.decisions, decided))
        book.save(record)
        return record
    if decision.action == "advance" and decision.percent == 100 and found.health is not None:
        record = record.with_(champion=Fared.of(found.health["champion"]))
    return _set(book, record, decided, traffic, seen)


def _set(book: _Book, record: Record, decided: Decided, traffic: Traffic, seen: State) -> Record:
    """Write down a change of the traffic, and do it; less is done also where it cannot be written, and kept after."""
    pending = Pending(action=decided.action, percent=decided.percent, since=decided.at)
    less = decided.percent < max(record.percent, seen.percent)
    record = record.with_(decisions=(*record.decisions, decided), pending=pending)
    if not less:
        book.save(record)
    else:
        with suppress(UserError, OSError):
            save(book.path, record)
    return _finish(book, record, traffic, seen, decided.at)


def _begun(book: _Book, record: Record, traffic: Traffic, seen: State, now: datetime) -> Record:
    """End a start, which may be done already."""
    pending = record.pending
    if pending is None or (seen.experiment, seen.percent) != (record.experiment, pending.percent):
        _require_free(record.experiment, seen)
    return _finish(book, record, traffic, seen, now)


def _is_near(record: Record, seen: State) -> bool:
    """Tell whether what is pending may be done: nobody else meddled, or it is done, or takes away.

    Less is asked for whatever our share is; more only where it is the one that was looked at.
    """
    pending = record.pending
    if pending is None:
        return False
    if seen.percent == 0 and pending.percent == 0:
        return True
    ours = seen.experiment == record.experiment
    return ours and (pending.percent < record.percent or seen.percent in (record.percent, pending.percent))


def _finish(book: _Book, record: Record, traffic: Traffic, seen: State, now: datetime) -> Record:
    """Do what is pending, which may be done already, and write down that it is done."""
    pending = record.pending
    assert pending is not None
    done = (seen.experiment, seen.percent) == (record.experiment, pending.percent)
    try:
        traffic.set(record.experiment, pending.percent, seen)
    except UserError as error:
        raise Unset(str(error)) from error
    # A step lasts from when its share came into force: a backend that was away for a day is no day of looking.
    stages = (*record.stages, Stage(percent=pending.percent, since=pending.since if done else now))
    outcome = "running" if pending.action == "start" else OUTCOMES.get(pending.action, "running")
    served = servers.begin(traffic) if outcome == "running" else None
    record = record.with_(stages=stages, pending=None, outcome=outcome, served=served, unready_since=None)
    book.save(record)
    return record


def _strange(record: Record, seen: State) -> UserError | None:
    """Return that the challenger's share is none of the record's."""
    if seen.experiment == record.experiment and seen.percent == record.percent:
        return None
    return UserError(
        f"the challenger has {seen.percent} % of {seen.experiment!r}, where the record says {record.percent} % of "
        f"{record.experiment!r}; set it back, or end the rollout with `serm rollout abort`."
    )


def _gone(record: Record, now: datetime) -> Record:
    """Return the record of a challenger that somebody else took back, which is a roll-back."""
    told = "the traffic was set to 0 by somebody else, or by a tick that was cut short"
    return _ended(record, Decided(at=now, action="roll_back", percent=0, reasons=(told,)))


def _ended(record: Record, decided: Decided) -> Record:
    stages = (*record.stages, Stage(percent=decided.percent, since=decided.at))
    decisions = (*record.decisions, decided)
    return record.with_(stages=stages, pending=None, outcome="rolled_back", decisions=decisions)


def _tried(record: Record, log: Path, on: EngineSettings, traffic: Traffic, now: datetime) -> Tick:
    if record.pending is None and record.outcome != "running":
        return Tick(record, None)
    seen = traffic.read()
    if record.pending is not None and (not record.stages or _is_near(record, seen)):
        return Tick(record, None, traffic.patch(record.experiment, record.pending.percent, seen))
    if seen.percent == 0:
        return Tick(_gone(record, now), None)
    strange = _strange(record, seen)
    if strange is not None and seen.experiment != record.experiment:
        raise strange
    found, blind, _ = _look(record, log, on, traffic, now)
    decision = decide(found, record.settings)
    told = (strange if decision.percent else None) or (blind if decision.action == "hold" else None)
    if told is not None:
        raise told
    sent = traffic.patch(record.experiment, decision.percent, seen) if decision.percent != seen.percent else None
    return Tick(record, decision, sent)
