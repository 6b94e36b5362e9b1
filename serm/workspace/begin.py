"""Begin a cycle: the state that it reads is set apart, so that what ``advance`` changes is no longer its input."""

from __future__ import annotations

from pathlib import Path

from serm import contracts
from serm.atomic import recover
from serm.errors import UserError
from serm.layout import CYCLE, PROFILES, STATE, WINDOWS
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.lock import writing
from serm.workspace.store import Workspace, place

#: What the first cycle of a workspace finds empty: its schema.
_REMEMBERED = {
    PROFILES: contracts.PROFILES,
    WINDOWS / "impressions": contracts.SAMPLES,
    WINDOWS / "catalogue": contracts.CATALOGUES,
}


@step
def begin(repository: Path, settings: Settings) -> Figures:
    """Make ``cycle/state`` what ``state/`` is now, as links where there are any; a second call takes it anew.

    Args:
        repository: the workspace.
        settings: the settings of the cycle that begins.

    Returns:
        ``cycle``.

    Raises:
        UserError: a part of the state is missing, or another command writes in the workspace.
    """
    root = Workspace(repository).path
    with writing(root, "serm begin"):
        set_apart(root)
        return {"cycle": settings.cycle.name}


def set_apart(root: Path) -> None:
    """Make ``cycle/state`` of the workspace ``root`` what ``state/`` is now; the caller holds its lock.

    Raises:
        UserError: a part of the state is missing.
    """
    for name, schema in _REMEMBERED.items():
        if not (root / name).exists():
            contracts.write(schema.empty_table(), root / name, schema)
    for path in STATE:
        recover(root / path)
        if not (root / path).is_dir():
            raise UserError(f"{root / path}: not there; `dvc checkout {path}` brings it back, `serm init` makes it.")
        place(root / path, root / CYCLE / path)
