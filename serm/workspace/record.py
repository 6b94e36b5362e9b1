"""Record a quiet window in the place of a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.layout import STEPS, WATCH
from serm.workspace.publish import placed, tagged
from serm.workspace.store import Workspace


@step
def record(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Commit and tag a window in which nothing drifted: what was found in it, and no challenger.

    The steps after drift did not run, so ``cycle/`` and dvc.lock keep what the last challenger's cycle left of them
    (``dvc status`` says that their window is another). A second call with the same bytes changes nothing.

    Args:
        repository: the workspace.
        outputs: step name -> the directory that it wrote, of the steps ``WATCH``.
        settings: the cycle's settings.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: an output is missing, the window drifted, or the tag exists already with other bytes.
    """
    workspace = Workspace(repository)
    tag = settings.cycle.name
    summaries = placed(workspace, outputs, WATCH)
    if summaries["drift"]["decision"] != "quiet":
        raise UserError(f"{repository}: the window of {tag} drifted; run the steps after drift, then `serm publish`.")
    for name in STEPS[len(WATCH) :]:  # of a trial under this tag, which was deleted
        (workspace.path / "history" / tag / f"{name}.json").unlink(missing_ok=True)
    workspace.dvc("commit", "--quiet", "--force", *WATCH)
    return tagged(workspace, tag, summaries, "nothing drifted", "nothing drifted")
