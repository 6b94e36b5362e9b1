"""One cycle through the compiled KFP pipeline in this machine's processes, and a world's cycles one after another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from serm import contracts
from serm.atomic import write_json
from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures
from serm.workspace.advance import advance
from serm.workspace.kfplog import StepLog
from serm.workspace.layout import CYCLE, HISTORY, INPUTS, PARAMS, PROFILES, STATE, STEPS, TASKS, WINDOWS
from serm.workspace.store import Workspace, place

#: The pipeline's tasks whose figures and progress are shown, in order.
RUN = (*STEPS, "publish", "deploy", "record")


def run_cycle(workspace: Path, force: bool = False) -> dict[str, Figures]:
    """Pin the inputs with DVC, run the compiled pipeline with ``kfp.local``, and return each step's figures.

    Tasks that an interrupted run finished are taken from KFP's local cache, as long as settings, inputs,
    pipeline and SERM's own code are the same bytes.

    Raises:
        UserError: a step failed; the message is the step's own where the input was at fault.
    """
    from kfp import components, local

    repository = Workspace(workspace)
    root = repository.path
    remembered = {
        PROFILES: contracts.PROFILES,
        WINDOWS / "impressions": contracts.SAMPLES,
        WINDOWS / "catalogue": contracts.CATALOGUES,
    }
    for name, schema in remembered.items():
        if not (root / name).exists():  # the first cycle of a workspace: DVC wants all inputs there
            contracts.write(schema.empty_table(), root / name, schema)
    repository.track(*map(str, (*INPUTS, *STATE)))
    settings = (root / PARAMS).read_text(encoding="utf-8")
    pipeline_file = Path(str(files("pipelines") / "compiled" / "evolve.yaml"))
    tasks = root / TASKS / fingerprint(root, pipeline_file)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tasks), enable_caching=True)
    pipeline = components.load_component_from_file(str(pipeline_file))
    uris = {path.name: str(root / path) for path in (*INPUTS, *STATE)}
    with StepLog(tasks / "log.txt", RUN) as log, contextlib.redirect_stdout(log), _logging_to(log):
        try:
            pipeline(settings=settings, repository=str(root), force=force, **uris)
        except RuntimeError as error:
            raise UserError(f"{log.error or error} The steps' own words are in {log.path}.") from error
    costs = {step: figures for step in RUN if (figures := _figures(tasks, step))}
    history = root / HISTORY / str(costs["publish" if "publish" in costs else "record"]["tag"])
    if "publish" in costs:
        place(_newest(tasks, "deploy") / "deployed", root / CYCLE / "deploy")
        write_json(history / "deploy.json", json.loads((root / CYCLE / "deploy" / "canary.json").read_text()))
    write_json(history / "costs.json", costs)
    return costs


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


def run_loop(stream: Stream, cycles: int, show: Callable[[dict[str, Figures]], None]) -> None:
    """Run the first ``cycles`` cycles of a world; what is done already is not done again.

    Args:
        stream: the world.
        cycles: how many.
        show: is given what each step of a cycle took.
    """
    if not stream.is_founded:
        print(f"Founding the emoji world in {stream.path}: seed judgments, the first champion, simulated users")
        show({"found": stream.found()})
    for number in range(1, cycles + 1):
        if stream.is_past(number):
            print(f"cycle {number}: done before")
            continue
        simulated = stream.open_window(number)
        settings = stream.settings()
        print(f"\n{settings.cycle.name}: {settings.cycle.start.date()} to {settings.cycle.end.date()}", flush=True)
        costs = {"simulate": simulated} | run_cycle(stream.path)
        history = stream.path / HISTORY / settings.cycle.name
        if "publish" in costs:
            write_json(history / "audit.json", stream.audit())
        else:
            print("Nothing drifted: the window is recorded, and there is nothing to learn from it.")
        write_json(history / "costs.json", costs)
        show(costs)
        advance(stream.path, settings)


def fingerprint(root: Path, pipeline: Path) -> str:
    """Return the name under which ``kfp.local`` keeps a run: a hash of settings, inputs, pipeline and SERM's code."""
    pointers = sorted(path for path in [*root.glob("*.dvc"), *(root / "state").glob("*.dvc")] if path.is_file())
    package = Path(__file__).parents[1]
    sources = sorted([*package.rglob("*.py"), *package.rglob("*.jinja")])
    digest = hashlib.sha256()
    for path in [root / PARAMS, pipeline, *pointers, *sources]:
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
