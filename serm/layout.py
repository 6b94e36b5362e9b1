"""Where everything of a workspace lies, relative to its root: each path is spelled here, once."""

from __future__ import annotations

from pathlib import Path

PARAMS, DVC = Path("params.yaml"), Path(".dvc")
SETUP = (DVC / "config", DVC / ".gitignore", Path(".dvcignore"))
"""What a clone needs to bring anything back."""

#: What the search engine gives.
LOG, DOCUMENTS, KNOWLEDGE, TESTS = Path("log"), Path("documents"), Path("knowledge"), Path("tests")
INPUTS = (LOG, DOCUMENTS, KNOWLEDGE, TESTS)

#: What the world believes now; ``advance`` alone changes it.
CHAMPION, JUDGMENTS = Path("state/champion"), Path("state/judgments")
REFERENCE, PROFILES, WINDOWS = Path("state/reference"), Path("state/profiles"), Path("state/windows")
STATE = (CHAMPION, JUDGMENTS, REFERENCE, PROFILES, WINDOWS)
AFTER = Path("state.json")
"""Which cycle the state is after."""

CYCLE = Path("cycle")
"""Where each step writes: ``cycle/<step>``."""
MODEL_CARD = CYCLE / "model_card.md"
READ = tuple(CYCLE / path for path in STATE)
"""The state as it was when the cycle began, which the steps read: ``advance`` does not change it."""
SUPERSEDED = Path("state/superseded")
"""Judgments that stood in the state until a better one of their pair came; there is none before the first."""
REVIEWED = Path("reviewed")
"""The human judgments of ``serm review``, until ``advance`` takes them into the state."""
TEST_REVIEWED = Path("tests-reviewed")
"""People's grades of what was drawn for the rolling test set (``serm review --tests``)."""
ROLLOUTS = Path("rollout")
"""The records of ``serm rollout``: ``rollout/<tag>.json``."""
HISTORY = Path("history")
"""The steps' summaries of each cycle: ``history/<tag>/<step>.json``."""
PROVENANCE = Path("provenance")
"""What made each cycle, as in-toto tells it: ``provenance/<tag>.json``."""
TASKS = Path(".kfp")
"""What ``kfp.local`` keeps of runs, by their fingerprint; git does not see it."""
EVIDENTLY = Path("evidently")
"""The Evidently workspace to which cycles add their snapshots; git does not see it."""
REPORT = Path("report")
RUNNING = Path(".serm/running.json")
"""The steps that the cycle which runs, or ran last, has begun, and when."""
LOCK = Path(".serm/lock")
"""Held by whatever writes in the workspace. ``.serm`` has SERM's own caches and the judges' ledger too; git does not
see it."""


def root_of(directory: Path) -> Path | None:
    """Return the workspace that ``directory`` lies in: the first one upwards that holds .dvc and params.yaml."""
    found = (one for one in (directory, *directory.parents) if (one / DVC).is_dir() and (one / PARAMS).is_file())
    return next(found, None)
