"""A rollout's record: one JSON file for people and for the next tick, which says what was decided and what was done."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serm.atomic import write_json
from serm.errors import UserError
from serm.rollout.decision import Action
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.settings import RolloutSettings

Outcome = Literal["running", "promoted", "rolled_back", "inconclusive", "error"]
OUTCOMES: dict[Action, Outcome] = {
    "promote": "promoted",
    "roll_back": "rolled_back",
    "inconclusive": "inconclusive",
    "error": "error",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Part):
    """A step of the ramp: the challenger's percentage, and since when."""

    percent: int = Field(ge=0, le=100)
    since: AwareDatetime


class Pending(_Part):
    """A change of the traffic that was begun; the next tick ends it if this one did not."""

    action: Action | Literal["start"]
    percent: int = Field(ge=0, le=100)
    since: AwareDatetime


class Served(_Part):
    """What a model's server did since the step in force began, by a backend that counts from its own start."""

    requests: int = 0
    errors: int = 0
    counted: tuple[int, int]
    """Requests and errors that the backend had counted at the last look."""


class Fared(_Part):
    """How a model's server fared in a step."""

    requests: int
    errors: int
    p95_ms: float | None
    within: tuple[tuple[float | None, int], ...]
    """As ``Health`` has it; None for the infinite bound, which JSON does not know."""

    @classmethod
    def of(cls, health: Health) -> Fared:
        """Return it as a record keeps it."""
        within = tuple((bound if isfinite(bound) else None, count) for bound, count in health.within)
        return cls(requests=health.requests, errors=health.errors, p95_ms=health.p95_ms, within=within)

    def health(self) -> Health:
        """Return it as a look has it."""
        within = tuple((inf if bound is None else bound, count) for bound, count in self.within)
        return Health(self.requests, self.errors, self.p95_ms, within)


class Decided(_Part):
    """What a look decided, and on what."""

    at: AwareDatetime
    action: Action | Literal["start"]
    percent: int
    reasons: tuple[str, ...]
    users: tuple[tuple[int, int], ...] = ()
    """Of challenger and control, by stage."""
    crossed: int = 0
    findings: dict[str, Any] = Field(default_factory=dict)


class Model(_Part):
    """Which model users were shown."""

    tag: str
    """The git tag of its cycle."""
    trained: str
    """DVC's hash of the train step's output, as the tag pins it."""


class Record(_Part):
    """All that is known of a rollout."""

    experiment: str
    note: str = ""
    """What whoever reads it should know, such as that its users are simulated."""
    model: Model | None = None
    """The challenger; None: its cycle was not published when the rollout began."""
    outcome: Outcome = "running"
    settings: RolloutSettings
    """As they were at the start: what is looked at, and how closely, may not change on the way."""
    stages: tuple[Stage, ...] = ()
    pending: Pending | None = None
    decisions: tuple[Decided, ...] = ()
    served: dict[Variant, Served] | None = None
    """None: the backend counts nothing, or could not be asked when the step began."""
    champion: Fared | None = None
    """Of the last step with both models, once the challenger has all users."""
    unready_since: AwareDatetime | None = None
    """Since which look the cluster says at each that the challenger is not ready."""

    @property
    def percent(self) -> int:
        """The challenger's percentage, as last known to be set."""
        return self.stages[-1].percent if self.stages else 0

    def with_(self, **changes: Any) -> Record:
        """Return the record with other values."""
        return self.model_copy(update=changes)


def path_of(records: Path, experiment: str) -> Path:
    """Return the file of an experiment's record.

    Raises:
        UserError: the name is no plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", experiment):
        raise UserError(f"experiment {experiment!r}: give a name of letters, digits, dots, hyphens and underscores.")
    return records / f"{experiment}.json"


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such rollout; begin it with `serm rollout start`.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{path}: no rollout's record ({where}: {first['msg']}); bring an undamaged copy.") from error


def running(records: Path) -> str | None:
    """Return the name of the rollout that runs, whichever cycle params.yaml is at; None: none does.

    Raises:
        UserError: two do; or none, and a record is damaged, so that it may be the one.
    """
    found: list[str] = []
    damaged: UserError | None = None
    for path in sorted(records.glob("*.json")):
        try:
            if load(path).outcome == "running":
                found.append(path.stem)
        except UserError as error:
            damaged = error
    if len(found) > 1:
        raise UserError(f"{records}: {' and '.join(found)} are running at once; name one with --experiment.")
    if damaged is not None and not found:
        raise damaged
    return found[0] if found else None


def save(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))


@contextmanager
def one_writer(records: Path) -> Iterator[None]:
    """Hold the records' lock; the kernel frees it however the process ends.

    It is not the workspace's: a rollout must be able to go back while a cycle runs for hours.

    Raises:
        UserError: another process holds it.
    """
    records.mkdir(parents=True, exist_ok=True)
    with (records / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{records}: another `serm rollout` is at work here; try again after it.") from None
        yield


def now_or(at: datetime | None) -> datetime:
    """Return ``at``, or the present."""
    return at or datetime.now(UTC)
