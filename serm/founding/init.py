"""``serm init``: a log, a catalogue and judgments become a git and DVC workspace, ready for its first cycle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from serm import contracts, stream, training
from serm.atomic import write_json, write_text
from serm.catalogue import look as look_at_catalogue
from serm.errors import UserError
from serm.founding import first
from serm.founding.given import Given, Plan
from serm.founding.parts import Parts
from serm.layout import AFTER, CHAMPION, DOCUMENTS, JUDGMENTS, KNOWLEDGE, LOG, PARAMS, REFERENCE, SETUP, TESTS
from serm.settings import Settings
from serm.stream.judgments import Quarantined, scale
from serm.stream.judgments import read as read_judgments
from serm.stream.span import Span, span
from serm.workspace.lock import writing
from serm.workspace.merge import merged
from serm.workspace.progress import Progress
from serm.workspace.store import Workspace

BEGUN = Path(".serm/init.json")
"""What the workspace is made of, as it was asked for; there until it is made."""


@dataclass(frozen=True)
class Founded:
    """What came of it."""

    plan: Plan
    figures: dict[str, Any]
    notes: list[str]


def plan(given: Given) -> Plan:
    """Look at the files and say what would be made of them; nothing is written.

    Raises:
        UserError: a file is missing or cannot be read as what it should be, or the log has no times.
    """
    for path, what in ((given.log, "--log"), *((one, "--judgments") for one in given.judgments)):
        if not path.exists():
            raise UserError(f"{what} {path}: no such file or directory; give its path.")
    settings = _early(given)
    fields = look_at_catalogue(given.documents, given.asked, settings).told()
    table, quarantined = _judgments(given)
    seen = stream.look(given.log, settings)
    fitting = settings.model_copy(update={"stream": settings.stream.model_copy(update=seen.settings)})
    found = seen.span or span(given.log, fitting)
    reference, window, notes = windows(found, given.every)
    told = [f"The log: {warning}." for warning in seen.warnings]
    notes = [*told, *notes]
    return Plan(fields, found.first, found.last, reference, window, seen.settings, notes, table, quarantined)


def _judgments(given: Given) -> tuple[pa.Table, list[Quarantined]]:
    """Read all files of judgments; of a pair in two of them the later file's stands."""
    table, quarantined = contracts.JUDGMENTS.empty_table(), list[Quarantined]()
    for path in given.judgments:
        found = read_judgments(path, given.locale, scale(given.ratings) if given.ratings else None, given.queries)
        table = merged(table, found.judgments.select(table.column_names))
        quarantined += found.quarantined
    return table, quarantined


def windows(log: Span, every: float) -> tuple[tuple[datetime, datetime], tuple[datetime, datetime], list[str]]:
    """Return the reference window, the first cycle's, and what is to say of them.

    The first cycle's is the last whole window of ``every`` days, so that it learns from now. The reference is the one
    before it; where the log has a gap there, the last one before that has impressions. Of a log that is shorter than
    both, they are its halves.
    """
    days, after = timedelta(days=every), (log.last + timedelta(seconds=1)).replace(microsecond=0)
    window = after - days
    busy = [day for day in log.days if day < window]
    if busy and log.first < window - days:
        until = min(window, datetime(*busy[-1].timetuple()[:3], tzinfo=UTC) + timedelta(days=1))
        gap = f"The log has a gap from {until:%Y-%m-%d} on: the reference window ends there."
        return (until - days, until), (window, after), [] if until == window else [gap]
    begin = log.first.replace(microsecond=0)
    middle = (begin + (after - begin) / 2).replace(microsecond=0)
    if not begin < middle < after:
        raise UserError(f"the log spans {log.first} to {log.last}: no two windows; give a log of a longer time.")
    note = f"The log is shorter than two windows of {every:g} days: its first half is the reference, its second half is"
    return (begin, middle), (middle, after), [f"{note} the first cycle's window. Later windows last {every:g} days."]


def init(path: Path, given: Given, tell: Callable[[str], None] = lambda line: None) -> Founded:
    """Make the workspace ``path``; an ``init`` of the same files that was cut short goes on where it was.

    Args:
        path: a directory that is new or empty, or that an ``init`` of the same began.
        given: the team's files.
        tell: is called with a line before each long part.

    Raises:
        UserError: as ``plan`` says, or there is another workspace or something else at ``path``.
    """
    asked = json.loads(json.dumps(vars(given) | {"asked": vars(given.asked)}, default=str))
    _require_room(path, asked)
    planned = plan(given)
    workspace = Workspace.create(path, given.remote or path.absolute().with_name(f"{path.name}.remote"))
    root = workspace.path
    with writing(root, "serm init"):
        write_json(root / BEGUN, asked)
        parts = Parts(root, given, planned, list(planned.notes))
        tell(f"Reading the catalogue {given.documents}")
        documents = parts.documents(_early(given))
        settings = parts.settings(documents)
        tell(f"Taking the log {given.log}")
        parts.log()
        parts.knowledge()
        shown = parts.windows(settings)
        tell("Splitting the judgments by query: seed, frozen and rolling test")
        judgments = parts.judgments(shown, settings)
        tell("Training the first champion on the seed judgments")
        if not (root / CHAMPION).exists():
            training.bootstrap(root / JUDGMENTS, root / DOCUMENTS, root / CHAMPION, settings)
        compared = first.compare(root / CHAMPION, root / TESTS, root / DOCUMENTS, settings)
        _commit(workspace)
        (root / BEGUN).unlink()
    return Founded(planned, {"documents": documents, "judgments": judgments, "NDCG@10, frozen": compared}, parts.notes)


def _require_room(path: Path, asked: dict[str, Any]) -> None:
    if (path / AFTER).exists():
        raise UserError(f"{path}: a workspace is there already; `serm evolve` there goes on with it.")
    if (path / BEGUN).exists():
        begun = json.loads((path / BEGUN).read_text(encoding="utf-8"))
        if changed := sorted(name for name in asked if asked[name] != begun.get(name)):
            raise UserError(
                f"{path}: an init with another {', '.join(changed)} was cut short there; give the same, or remove the"
                " directory to begin anew."
            )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: something is there already; give a directory that is new or empty.")


def _early(given: Given) -> Settings:
    """Return settings before there is a params.yaml: all times, the team's locale."""
    cycle = {"number": 1, "start": "1970-01-01T00:00:00Z", "end": "2262-01-01T00:00:00Z"}
    return Settings.model_validate({"cycle": cycle, "stream": {"locale": given.locale}})


def _commit(workspace: Workspace) -> None:
    tracked = (LOG, DOCUMENTS, KNOWLEDGE, TESTS, CHAMPION, JUDGMENTS, REFERENCE)
    ignored = workspace.path / ".gitignore"
    if not ignored.exists():  # before DVC, which adds what it tracks
        write_text(ignored, "/.kfp/\n/.serm/\n/report/\n/quarantine/\n")
    workspace.track(*tracked)
    Progress("cycle-0000", "promoted").write(workspace.path)
    own = (*SETUP, ".gitignore", "dvc.yaml", PARAMS, AFTER)
    workspace.commit("A workspace: seed judgments, test sets, first champion", (*own, *workspace.pointers(*tracked)))
