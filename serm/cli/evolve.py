"""``serm evolve``: one cycle through the compiled KFP pipeline, in this machine's processes."""

from __future__ import annotations

import contextlib
import hashlib
import json as jsonlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serm.cli.options import HERE, Json, WorkspacePath
from serm.errors import UserError
from serm.step import Figures

if TYPE_CHECKING:
    from serm.cli.kfplog import StepLog

Force = Annotated[bool, typer.Option("--force", help="Run the whole cycle though nothing drifted.")]

STEPS = ("ingest", "validate", "drift", "mine", "annotate", "train", "evaluate", "publish", "deploy", "record")
_INPUTS = ("log", "documents", "knowledge", "tests")
_STATE = ("champion", "judgments", "reference", "profiles", "windows")


def evolve(workspace: WorkspacePath = HERE, force: Force = False, json: Json = False) -> None:
    """Run one evolution cycle: ingest, validate, drift, mine, annotate, train, evaluate, publish, deploy.

    When nothing drifted, record follows drift and nothing else: the window's figures stay, and no model is trained.
    """
    costs = run_cycle(workspace, force)
    if json:
        print(jsonlib.dumps(costs, sort_keys=True))
    else:
        show_costs(costs)


def run_cycle(workspace: Path, force: bool = False) -> dict[str, Figures]:
    """Pin the inputs with DVC, run the compiled pipeline with ``kfp.local``, and return each step's figures.

    Tasks that an interrupted run finished are taken from KFP's local cache, as long as settings, inputs,
    pipeline and SERM's own code are the same bytes.

    Raises:
        UserError: a step failed; the message is the step's own where the input was at fault.
    """
    from kfp import components, local

    from pipelines.compile import COMPILED
    from serm import contracts, versioning
    from serm.atomic import write_json
    from serm.cli.kfplog import StepLog
    from serm.versioning.workspace import place

    repository = versioning.Workspace(workspace)
    root = repository.path
    remembered = {
        "profiles": contracts.PROFILES,
        "windows/impressions": contracts.SAMPLES,
        "windows/catalogue": contracts.CATALOGUES,
    }
    for name, schema in remembered.items():
        if not (root / "state" / name).exists():  # the first cycle of a workspace: DVC wants all inputs there
            contracts.write(schema.empty_table(), root / "state" / name, schema)
    repository.track(*_INPUTS, *(f"state/{name}" for name in _STATE))
    settings = (root / "params.yaml").read_text(encoding="utf-8")
    pipeline_file = COMPILED / "evolve.yaml"
    tasks = root / ".kfp" / _fingerprint(root, pipeline_file)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tasks), enable_caching=True)
    pipeline = components.load_component_from_file(str(pipeline_file))
    uris = {name: str(root / name) for name in _INPUTS} | {name: str(root / "state" / name) for name in _STATE}
    with StepLog(tasks / "log.txt", STEPS) as log, contextlib.redirect_stdout(log), _logging_to(log):
        try:
            pipeline(settings=settings, repository=str(root), force=force, **uris)
        except RuntimeError as error:
            raise UserError(f"{log.error or error} The steps' own words are in {log.path}.") from error
    costs = {step: figures for step in STEPS if (figures := _figures(tasks, step))}
    history = root / "history" / str(costs["publish" if "publish" in costs else "record"]["tag"])
    if "publish" in costs:
        place(_newest(tasks, "deploy") / "deployed", root / "cycle" / "deploy")
        write_json(history / "deploy.json", jsonlib.loads((root / "cycle" / "deploy" / "canary.json").read_text()))
    write_json(history / "costs.json", costs)
    return costs


def show_costs(costs: dict[str, Figures]) -> None:
    """Print what each step of a cycle took and did."""
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "seconds", "peak MB", "figures")
    for step, figures in costs.items():
        told = ", ".join(
            f"{name} {value}" for name, value in figures.items() if name not in ("seconds", "peak_memory_mb")
        )
        table.add_row(step, str(figures["seconds"]), str(figures["peak_memory_mb"]), told)
    Console().print(table)


def _fingerprint(root: Path, pipeline: Path) -> str:
    pointers = sorted(path for path in [*root.glob("*.dvc"), *(root / "state").glob("*.dvc")] if path.is_file())
    package = Path(__file__).parents[1]
    sources = sorted([*package.rglob("*.py"), *package.rglob("*.jinja")])
    digest = hashlib.sha256()
    for path in [root / "params.yaml", pipeline, *pointers, *sources]:
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
    (artifact,) = jsonlib.loads(path.read_text(encoding="utf-8"))["artifacts"]["figures"]["artifacts"]
    figures: Figures = artifact["metadata"]
    return figures
