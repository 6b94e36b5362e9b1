"""One cycle through the compiled KFP pipeline in this machine's processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from serm import settings as params
from serm.atomic import write_json
from serm.errors import UserError
from serm.layout import HISTORY, INPUTS, PARAMS, STATE, TASKS
from serm.step import Figures
from serm.steps import DEPLOYED, GIVEN, RUN
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
        StepLog(tasks / "log.txt", RUN, journal.begin) as log,
        contextlib.redirect_stdout(log),
        _logging_to(log),
        warnings.catch_warnings(),
    ):
        # What a step asks of a cluster is kfp.local's to ignore, and nothing that a user could change.
        warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner", UserWarning)
        try:
            pipeline(settings=settings, repository=str(root), force=force, kept=str(tasks / "kept"), **uris)
        except RuntimeError as error:
            raise UserError(f"{log.error or error} The steps' own words are in {log.path}.") from error


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
