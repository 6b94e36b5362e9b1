"""Record a quiet window in the place of a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.steps import WATCH
from serm.workspace.origin import committed
from serm.workspace.publish import is_published, pin, pushed, read_summaries, tag_cycle
from serm.workspace.store import Workspace


@step
def record(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Commit and tag a window in which nothing drifted: what was found in it, and no challenger.

    The steps after drift did not run: ``cycle/`` and dvc.lock keep what the last challenger's cycle left of them, and
    dvc.yaml has them frozen until the next cycle. A second call with the same bytes changes nothing, and what is
    refused is refused before anything is written.

    Args:
        repository: the workspace: a directory, or a git URL, as for ``publish``.
        outputs: step name -> the directory that it wrote, of the steps ``WATCH``.
        settings: the cycle's settings.
        run: the id of the KFP run, for the provenance.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: the window drifted, or as ``publish`` does.
    """

    def commit(workspace: Workspace) -> Figures:
        tag = settings.cycle.name
        summaries = read_summaries(workspace, outputs, WATCH)
        if summaries["drift"]["decision"] != "quiet":
            raise UserError(
                f"{repository}: the window of {tag} drifted; run the steps after drift, then `serm publish`."
            )
        if not is_published(workspace, settings, outputs, WATCH):
            pin(workspace, settings, outputs, summaries, run)
            tag_cycle(workspace, tag, WATCH, f"{tag}: nothing drifted", "nothing drifted")
        return pushed(workspace, settings, passed=False)

    return committed(repository, "serm record", settings.publish, commit)
