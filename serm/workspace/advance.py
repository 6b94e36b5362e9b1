"""Advance: what a cycle proved becomes what the next cycle believes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.atomic import write_json
from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.publish import summary
from serm.workspace.store import Workspace, place

_KEY = ["query", "locale", "doc_id"]


@step
def advance(repository: Path, settings: Settings) -> Figures:
    """Move the world's state past a published cycle; a second call changes nothing.

    A challenger that passed the gate becomes the champion. The panel's judgments join the earlier ones in any
    case: they were earned, whatever the model made of them. So do the human judgments of ``serm review``, if there
    are any (``reviewed/``). The window becomes the reference; its profile and a sample of it join those of the
    windows before. A window that was recorded because nothing drifted has no challenger and no panel's judgments.

    Returns:
        ``champion`` (``promoted`` or ``kept``), ``judgments`` (rows now in the state), ``commit``.

    Raises:
        UserError: the cycle has been neither published nor recorded.
    """
    workspace = Workspace(repository)
    tag = settings.cycle.name
    if not workspace.has_tag(tag):
        raise UserError(f"{repository}: {tag} is not published; run `serm publish` first.")
    root = workspace.path
    learned = (root / "history" / tag / "evaluate.json").exists()
    promoted = learned and summary(root, "evaluate")["gate"]["result"] == "passed"
    if promoted:
        place(root / "cycle" / "train" / "model", root / "state" / "champion")
    judgments = contracts.read(root / "state" / "judgments", contracts.JUDGMENTS)
    reviewed = ["reviewed"] if (root / "reviewed").exists() else []
    for added in [*(["cycle/annotate/judgments"] if learned else []), *reviewed]:
        judgments = merged(judgments, contracts.read(root / added, contracts.JUDGMENTS))
    contracts.write(judgments, root / "state" / "judgments", contracts.JUDGMENTS)
    place(root / "cycle" / "validate" / "impressions", root / "state" / "reference")
    place(root / "cycle" / "validate" / "profiles", root / "state" / "profiles")
    place(root / "cycle" / "drift" / "windows", root / "state" / "windows")
    state = (f"state/{name}" for name in ("champion", "judgments", "reference", "profiles", "windows"))
    workspace.track(*state, *reviewed)
    write_json(root / "state.json", {"after": tag, "champion": "promoted" if promoted else "kept"})
    recorded = [path for path in ("history", "cycle/deploy") if (root / path).exists()]
    workspace.git("add", "state.json", *recorded)
    commit = workspace.commit(f"After {tag}: champion {'promoted' if promoted else 'kept'}")
    return {
        "champion": "promoted" if promoted else "kept",
        "judgments": judgments.num_rows,
        "commit": commit,
    }


def merged(earlier: pa.Table, new: pa.Table) -> pa.Table:
    """Return ``earlier`` plus the rows of ``new`` whose (query, locale, document) it lacks, sorted by that key.

    The first judgment of a pair stands: a panel's label never replaces a seed or human one.
    """
    added = new.join(earlier.select(_KEY), keys=_KEY, join_type="left anti")
    both = pa.concat_tables([earlier, added.select(earlier.column_names).cast(earlier.schema)])
    return both.take(pc.sort_indices(both, sort_keys=[(name, "ascending") for name in _KEY]))
