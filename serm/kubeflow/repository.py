"""What a run does to the repository beside its cycle: it begins from a clone, and moves the state past the cycle.

A repository that is a path is worked on where it is; of a git URL the clone lies on the run's volume, which all steps
of a run share and nobody else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from serm import settings as params
from serm.errors import UserError
from serm.layout import INPUTS, LOG, PARAMS, ROLLOUTS, STATE, TESTS
from serm.monitoring.commit import tell
from serm.pooling.rolling import renew
from serm.settings import PublishSettings, Settings
from serm.steps import GIVEN
from serm.stream.span import span
from serm.workspace.advance import advance
from serm.workspace.begin import begin
from serm.workspace.clone import is_url, reach, within
from serm.workspace.lock import writing
from serm.workspace.progress import Progress
from serm.workspace.store import Workspace, cloned_at, place
from serm.workspace.windows import go_on, next_cycle, with_cycle

if TYPE_CHECKING:
    from serm.founding import Given
    from serm.step import Figures

EARLIEST = timedelta(days=1)
"""The shortest window that ``early`` looks at."""


def opened(
    repository: str, volume: Path, paths: Sequence[Path] = (*INPUTS, *STATE), branch: str = "", directory: str = ""
) -> Workspace:
    """Return the workspace: a path's, or of a git URL the clone on ``volume``, at the branch's newest commit.

    Args:
        repository: the path or URL.
        volume: a directory that is the run's own.
        paths: what DVC is to bring into a clone.
        branch: of a git URL; empty: the repository's default branch.
        directory: of a git URL, the workspace within its repository; empty: its root.

    Raises:
        UserError: it cannot be cloned, it is no workspace, or DVC's remote lacks its bytes.
    """
    if not is_url(repository):
        return Workspace(Path(repository))
    cloned_at(repository, volume / "repository", branch)
    workspace = Workspace(within(repository, volume / "repository", directory))
    reach(workspace, repository, params.load(workspace.path / PARAMS).publish.dvc_remote)
    tracked = [str(path) for path in workspace.pointers(*paths) if path.suffix == ".dvc"]
    if tracked:
        workspace.dvc("pull", "--quiet", "--force", *tracked)
    return workspace


def checkout(
    repository: str, volume: Path, out: Mapping[str, Path], early: bool, branch: str = "", directory: str = ""
) -> str | None:
    """Hand out what the next cycle reads, and return the text of its params.yaml; None: the log does not cover it yet.

    A cycle that was published, and its state not moved past it, is ended first.

    Args:
        repository: as in ``opened``.
        volume: as in ``opened``.
        out: where each of ``steps.GIVEN`` goes, by its name; always written, as KFP asks.
        early: take the window as it is so far, where it is a day long at least.
        branch: as in ``opened``.
        directory: as in ``opened``.

    Raises:
        UserError: params.yaml publishes to another branch or directory, or as ``opened``, ``windows.go_on``,
            ``rolling.renew`` and ``advance`` say.
    """
    workspace = opened(repository, volume, branch=branch, directory=directory)
    root = workspace.path
    with writing(root, "serm submit"):
        settings = params.load(root / PARAMS)
        if is_url(repository):
            _require_same(workspace, repository, settings.publish, branch)
        if workspace.has_tag(settings.cycle.name) and not Progress.read(root).is_past(settings.cycle.name):
            tell(repository, workspace, settings)
            advance(root, settings)
            _push(workspace, repository)
        reaches_to = partial(_reaches_to, root, settings)
        following = _so_far(root, settings, reaches_to()) if early else go_on(root, settings, reaches_to)
        if following is None:
            for one in out.values():
                one.mkdir(parents=True, exist_ok=True)
            return None
        renew(root, following)
        if workspace.changed(TESTS):
            workspace.track(TESTS)
            workspace.commit(f"Test queries of {following.cycle.name}", workspace.pointers(TESTS))
            _push(workspace, repository)
        begin(root, following)
        if workspace.changed(*STATE):  # the first cycle's profiles and windows: publish knows the state by its pointers
            workspace.track(*STATE)
            workspace.commit(f"The state that {following.cycle.name} reads", workspace.pointers(*STATE))
            _push(workspace, repository)
        for given in GIVEN:
            place(root / given.path, out[given.name])
        return with_cycle((root / PARAMS).read_text(encoding="utf-8"), following.cycle, str(root / PARAMS))


def go_past(repository: str, volume: Path, settings: str, branch: str = "", directory: str = "") -> Figures:
    """Move the state past a published cycle, and push it; ``settings`` is the text of its params.yaml."""
    workspace = opened(repository, volume, branch=branch, directory=directory)
    figures = advance(workspace.path, params.parse(settings))
    _push(workspace, repository)
    return figures


def found(repository: str, volume: Path, given: Given) -> Figures:
    """Make a workspace with its first champion on ``volume``, and push it to an empty repository.

    Raises:
        UserError: as ``founding.init`` says, the repository is a path or is not empty, or it cannot be pushed to.
    """
    from serm.founding import init

    if not is_url(repository):
        raise UserError(f"repository {repository!r}: expected the git URL of an empty repository.")
    founded = init(volume / "repository", given, lambda line: print(line, flush=True))
    workspace = Workspace(volume / "repository")
    workspace.dvc("push", "--quiet")
    workspace.git("push", "--quiet", "--atomic", repository, "HEAD:refs/heads/main")
    figures = {f"{part}_{name}": value for part, values in founded.figures.items() for name, value in values.items()}
    return {name: value for name, value in figures.items() if isinstance(value, int | float | str)}


def ramp(repository: str, volume: Path, log: Path, branch: str = "", directory: str = "") -> Figures:
    """Tick the rollout that runs, else the cycle's, and push its record; where there is none, do nothing.

    The record is pushed before the challenger gets more traffic: a later run, which clones anew, must know of it.

    Returns:
        ``outcome`` (``none`` where there is no rollout) and ``percent``.
    """
    from serm.rollout import controller
    from serm.rollout.record import Record, running
    from serm.rollout.traffic import connect

    workspace = opened(repository, volume, (), branch, directory)
    settings = params.load(workspace.path / PARAMS)
    name = running(workspace.path / ROLLOUTS) or settings.cycle.name
    path = ROLLOUTS / f"{name}.json"
    if not (workspace.path / path).exists():
        return {"outcome": "none", "percent": 0}
    rollout, serving = settings.rollout, settings.serving

    def keep(record: Record) -> None:
        workspace.commit(f"Rollout of {name}: {record.outcome}, {record.percent} %", (path,))
        _push(workspace, repository)

    with (
        writing(workspace.path, "serm submit"),
        connect(rollout.traffic, rollout.traffic_options, serving.namespace, serving.name) as traffic,
    ):
        done = controller.tick(workspace.path / ROLLOUTS, name, log, settings.engine, traffic, keep=keep)
    return {"outcome": done.record.outcome, "percent": done.record.percent}


def _require_same(workspace: Workspace, repository: str, publish: PublishSettings, branch: str) -> None:
    """Refuse a clone of which the cycle would be published elsewhere than its state is moved on."""
    given, wanted = {"branch": branch}, {"branch": publish.branch or ""}
    if branch or publish.branch:  # without one: the repository's default branch
        default = workspace.git("rev-parse", "--abbrev-ref", "origin/HEAD").removeprefix("origin/")
        given, wanted = {"branch": branch or default}, {"branch": publish.branch or default}
    given["directory"] = workspace.tag("").removesuffix("/")
    wanted["directory"] = str(PurePosixPath(publish.directory)) if publish.directory else ""
    for name, value in given.items():
        if value != wanted[name]:
            raise UserError(
                f"{repository}: the run's {name} is {value or 'the root'}, and publish.{name} in its params.yaml says"
                f" {wanted[name] or 'the root'}; give the pipeline's parameter {name} and publish.{name} the same."
            )


def _push(workspace: Workspace, repository: str) -> None:
    if is_url(repository):
        workspace.dvc("push", "--quiet")
        workspace.git("push", "--quiet", "--atomic", "--follow-tags", "origin", "HEAD")  # the champion's tag among them


def _so_far(root: Path, settings: Settings, reaches_to: datetime) -> Settings | None:
    """Return the settings of the next window as far as the log reaches; None: too short.

    params.yaml stays: where nothing drifted, the window is to go on to its own end. ``publish`` writes it.
    """
    cycle = next_cycle(settings.cycle) if Progress.read(root).is_past(settings.cycle.name) else settings.cycle
    until = min(cycle.end, reaches_to.replace(minute=0, second=0, microsecond=0))
    if until - cycle.start < EARLIEST:
        return None
    return settings.model_copy(update={"cycle": cycle.model_copy(update={"end": until})})


def _reaches_to(root: Path, settings: Settings) -> datetime:
    return span(root / LOG, settings).last
