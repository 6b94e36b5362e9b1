"""One cycle through the compiled KFP pipeline in this machine's processes, and a world's cycles one after another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from serm import settings as params
from serm.atomic import write_json
from serm.errors import UserError
from serm.layout import HISTORY, INPUTS, PARAMS, STATE, TASKS
from serm.settings import Settings
from serm.step import Figures
from serm.steps import DEPLOYED, GIVEN, RUN
from serm.workspace.advance import advance
from serm.workspace.begin import begin
from serm.workspace.kfplog import StepLog
from serm.workspace.lock import writing
from serm.workspace.origin import require_level, require_new
from serm.workspace.progress import Progress
from serm.workspace.provenance import PIPELINE
from serm.workspace.running import Journal
from serm.workspace.store import Workspace, place

PACKAGE = Path(__file__).parents[1]


def run_cycle(workspace: Path, force: bool = False) -> dict[str, Figures]:
    """Pin the inputs with DVC, run the compiled pipeline with ``kfp.local``, and return each step's figures.

    Tasks that an interrupted run finished are taken from KFP's local cache, as long as settings, inputs,
    pipeline and SERM's own code are the same bytes. What cannot be published is refused before any work.

    Raises:
        UserError: the cycle is done already, it was published with other inputs, another command writes in the
            workspace, or a step failed; the message is the step's own where the input was at fault.
    """
    repository = Workspace(workspace)
    root = repository.path
    with writing(root, "serm evolve"):
        settings = params.load(root / PARAMS)
        tag = settings.cycle.name
        _require_open(repository, tag)
        if settings.publish.push and not repository.has_tag(tag):  # what publish would find out at the cycle's end
            require_level(repository, settings.publish.remote)
            require_new(repository, settings.publish.remote, repository.tag(tag))
        begin(root, settings)
        repository.thaw()
        repository.track(*INPUTS, *STATE)
        tasks = root / TASKS / fingerprint(root, PIPELINE)
        with contextlib.chdir(root):  # the steps' relative paths, the ledger's among them, are the workspace's
            journal = Journal(root, tag)
            _run_pipeline(root, tasks, force, journal)
            journal.end()
        costs = {step: figures for step in RUN if (figures := _figures(tasks, step))}
        if "publish" in costs:
            place(_newest(tasks, "deploy") / DEPLOYED.name, root / DEPLOYED.path)
            canary = json.loads((root / DEPLOYED.path / "deploy.json").read_text(encoding="utf-8"))
            write_json(root / HISTORY / tag / "deploy.json", canary)
        write_json(root / HISTORY / tag / "costs.json", costs)
        return costs


def is_done(repository: Workspace, tag: str) -> bool:
    """Tell whether the cycle is published or recorded, and all that follows in it has run."""
    return repository.has_tag(tag) and (repository.path / HISTORY / tag / "costs.json").exists()


def _require_open(repository: Workspace, tag: str) -> None:
    """Refuse a run whose cycle could not be published, or has nothing left to do."""
    repository.require_branch()
    root = repository.path
    progress = Progress.read(root)
    if progress.advancing:
        raise UserError(f"{root}: `serm advance` past {progress.advancing} was cut short; run it again first.")
    if progress.is_past(tag):
        raise UserError(
            f"{root}: the state is past {progress.after} already; set the next cycle's number, start and end under"
            " cycle in params.yaml, then run `serm evolve`."
        )
    if is_done(repository, tag):
        raise UserError(f"{root}: {repository.tag(tag)} is done; run `serm advance` to go on to the next cycle.")
    if not repository.has_tag(tag):
        return
    changed = repository.changed(*INPUTS, *STATE)
    if changed or not (root / TASKS / fingerprint(root, PIPELINE)).is_dir():
        what = ", ".join(changed) or "params.yaml, an input or SERM itself"
        raise UserError(
            f"{root}: {repository.tag(tag)} is published already, and {what} changed since; run `serm deploy` and"
            " `serm advance` to go on with what was published, or set cycle.number in params.yaml to the next number."
        )


def _run_pipeline(root: Path, tasks: Path, force: bool, journal: Journal) -> None:
    from kfp import components, local

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tasks),
        workspace_root=str(tasks / "volume"),
        enable_caching=True,
    )
    pipeline = components.load_component_from_file(str(PIPELINE))
    uris = {one.name: str(root / one.path) for one in GIVEN}
    settings = (root / PARAMS).read_text(encoding="utf-8")
    with (
        warnings.catch_warnings(),
        StepLog(tasks / "log.txt", RUN, journal.begin) as log,
        contextlib.redirect_stdout(log),
        _logging_to(log),
    ):
        # What a step asks of a cluster, it asks of a cluster: no news to who runs it here.
        warnings.filterwarnings("ignore", message=".* have no effect in the current local runner")
        try:
            pipeline(settings=settings, repository=str(root), force=force, kept=str(tasks / "kept"), **uris)
        except RuntimeError as error:
            raise UserError(f"{log.error or error} The steps' own words are in {log.path}.") from error


class Stream(Protocol):
    """What a simulated world is to the loop: it opens one window after the other, and knows how far it is."""

    path: Path
    """The workspace that it feeds."""

    @property
    def is_founded(self) -> bool:
        """Whether ``found`` has finished."""

    def found(self) -> Figures:
        """Make the workspace, with its first champion."""

    def is_past(self, number: int) -> bool:
        """Whether the workspace has advanced past cycle ``number``."""

    def open_window(self, number: int) -> Figures:
        """Let the world go on to window ``number``."""

    def settings(self) -> Settings:
        """Return the settings of the cycle that the world is at."""

    def audit(self) -> dict[str, Any]:
        """Hold the cycle against what only the world knows."""

    def roll_out(self, number: int) -> None:
        """Let the world's users decide on the challenger of window ``number``, where the gate passed it."""


def run_loop(stream: Stream, cycles: int, show: Callable[[dict[str, Figures]], None], *, rollout: bool = False) -> None:
    """Run the first ``cycles`` cycles of a world; what is done already is not done again.

    Args:
        stream: the world.
        cycles: how many.
        show: is given what each step of a cycle took.
        rollout: let the world's users decide on each challenger that passes the gate, before ``advance``.

    Raises:
        UserError: as ``run_cycle`` and ``advance`` do.
    """
    with writing(stream.path, "serm demo"):
        if not stream.is_founded:
            print(f"Founding the emoji world in {stream.path}: seed judgments, the first champion, simulated users")
            show({"found": stream.found()})
        for number in range(1, cycles + 1):
            if stream.is_past(number):
                print(f"cycle {number}: done before")
            else:
                _next(stream, number, show, rollout)


def _next(stream: Stream, number: int, show: Callable[[dict[str, Figures]], None], rollout: bool) -> None:
    simulated = stream.open_window(number)
    settings = stream.settings()
    tag = settings.cycle.name
    print(f"\n{tag}: {settings.cycle.start.date()} to {settings.cycle.end.date()}", flush=True)
    history = stream.path / HISTORY / tag
    if is_done(Workspace(stream.path), tag):  # it was interrupted after the last step
        costs = {"simulate": simulated} | json.loads((history / "costs.json").read_text(encoding="utf-8"))
    else:
        costs = {"simulate": simulated} | run_cycle(stream.path)
    if "publish" not in costs:
        print("Nothing drifted: the window is recorded, and there is nothing to learn from it.")
    elif not Progress.read(stream.path).advancing:  # the audit is of the state that the cycle read
        write_json(history / "audit.json", stream.audit())
    write_json(history / "costs.json", costs)
    show(costs)
    if rollout and not Progress.read(stream.path).advancing:
        stream.roll_out(number)
    advance(stream.path, settings)


def fingerprint(root: Path, pipeline: Path, package: Path = PACKAGE) -> str:
    """Return the name under which ``kfp.local`` keeps a run: a hash of settings, inputs, pipeline and SERM's own files.

    Args:
        root: the workspace.
        pipeline: the compiled pipeline.
        package: SERM's package; all files in it count but byte code, since a step may read any of them.
    """
    pointers = sorted(path for path in [*root.glob("*.dvc"), *(root / "state").glob("*.dvc")] if path.is_file())
    own = sorted(path for path in package.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    digest = hashlib.sha256()
    for path in [root / PARAMS, pipeline, *pointers, *own]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _logging_to(log: StepLog) -> Iterator[None]:
    """Let ``log`` have what kfp logs between tasks: that one was taken from the cache, for example."""
    root, handler = logging.getLogger(), logging.StreamHandler(log)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _newest(tasks: Path, step: str) -> Path:
    return max(tasks.glob(f"serm-evolve-*/{step}/executor_output.json"), default=tasks).parent


def _figures(tasks: Path, step: str) -> Figures:
    path = _newest(tasks, step) / "executor_output.json"
    if not path.is_file():
        return {}
    (artifact,) = json.loads(path.read_text(encoding="utf-8"))["artifacts"]["figures"]["artifacts"]
    figures: Figures = artifact["metadata"]
    return figures
