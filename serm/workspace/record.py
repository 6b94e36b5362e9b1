"""Record a quiet window in the place of a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.steps import WATCH
from serm.workspace.lock import writing
from serm.workspace.publish import is_published, pin, pushed, read_summaries, tag_cycle
from serm.workspace.store import Workspace


@step
def record(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Commit and tag a window in which nothing drifted: what was found in it, and no challenger.

    The steps after drift did not run, so ``cycle/`` and dvc.lock keep what the last challenger's cycle left of them
    (``dvc status`` says that their window is another). A second call with the same bytes changes nothing, and what is
    refused is refused before anything is written.

    Args:
        repository: the workspace.
        outputs: step name -> the directory that it wrote, of the steps ``WATCH``.
        settings: the cycle's settings.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: an output is missing, the window drifted, the tag exists already with other bytes, HEAD is on no
            branch, or another command writes in the workspace.
    """
    workspace = Workspace(repository)
    with writing(workspace.path, "serm record"):
        tag = settings.cycle.name
        summaries = read_summaries(workspace, outputs, WATCH)
        if summaries["drift"]["decision"] != "quiet":
            raise UserError(
                f"{repository}: the window of {tag} drifted; run the steps after drift, then `serm publish`."
            )
        if not is_published(workspace, tag, outputs, WATCH):
            pin(workspace, tag, outputs, summaries)
            tag_cycle(workspace, tag, f"{tag}: nothing drifted", "nothing drifted")
        return pushed(workspace, tag)
