"""What a workspace's history knows of its cycles; what it lacks stays unknown, never a guess."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serm import settings as params
from serm.errors import UserError
from serm.layout import PARAMS, ROLLOUTS
from serm.settings import Settings
from serm.workspace.store import Workspace

GATES = ("error", "failed", "inconclusive", "passed")
"""The gate's results, the worst first. ``error``: the server that tried the challenger crashed or never answered."""
_TAG = re.compile(r"cycle-\d{4,}")


@dataclass(frozen=True)
class Cycle:
    """One cycle: the summaries of its steps, and its settings where git has them."""

    tag: str
    summaries: dict[str, dict[str, Any]]
    """The JSON files of ``history/<tag>``, by name: ingest, validate, ..., evaluate, deploy, costs, audit."""
    settings: Settings | None
    users: str | None = None
    """The outcome of its rollout: running, promoted, rolled_back, inconclusive or error; None where there was none."""

    def get(self, *path: str) -> Any:
        """Return the value at ``path``, such as ``get("evaluate", "gate", "result")``, or None where it is not."""
        value: Any = self.summaries
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def gate(self) -> str | None:
        """The gate's result, one of ``GATES``."""
        result: str | None = self.get("evaluate", "gate", "result")
        return result

    @property
    def promoted(self) -> bool:
        """Whether its challenger passed the gate, and its users, if they were asked, promoted it."""
        return self.gate == "passed" and self.users in (None, "promoted")

    @property
    def quiet(self) -> bool:
        """Whether nothing drifted, so that the cycle ended there."""
        return self.get("drift", "decision") == "quiet" and "evaluate" not in self.summaries

    @property
    def outcome(self) -> str | None:
        """The gate's result, or quiet."""
        return "quiet" if self.quiet else self.gate

    @property
    def measures(self) -> list[str]:
        """The cutoffs of NDCG that were measured, the smallest first: NDCG@1, NDCG@5, ..."""
        measured = [
            self.get("evaluate", "sets", name, "served", "all", "all", "measures") for name in ("rolling", "frozen")
        ]
        names = {name for measures in measured for name in measures or {}}
        return sorted((name for name in names if name.startswith("NDCG@")), key=lambda name: int(name.split("@")[1]))

    @property
    def gate_measure(self) -> str | None:
        """The measure that the gate read; without the cycle's settings, the one of the largest cutoff."""
        if self.settings:
            return self.settings.evaluation.gate_measure
        return self.measures[-1] if self.measures else None

    @property
    def families(self) -> list[str]:
        """The slices that are language families, as the cycle's settings name them."""
        return [f"family:{name}" for name in (*self.settings.evaluation.families, "other")] if self.settings else []


def read_cycles(workspace: Path) -> list[Cycle]:
    """Return the cycles of ``workspace/history``, the oldest first.

    Raises:
        UserError: there is none, or a summary is not JSON.
    """
    repository = Workspace(workspace) if (workspace / ".dvc").is_dir() else None
    return [
        Cycle(tag, _summaries(workspace, tag), _settings(repository, tag), _users(workspace, tag))
        for tag in tags(workspace)
    ]


def latest(workspace: Path) -> Cycle:
    """Return the newest cycle, without its settings; raises as ``read_cycles`` does."""
    tag = tags(workspace)[-1]
    return Cycle(tag, _summaries(workspace, tag), None, _users(workspace, tag))


def tags(workspace: Path) -> list[str]:
    """Return the tags of the cycles, the oldest first.

    Raises:
        UserError: there is none.
    """
    history = workspace / "history"
    found = [path.name for path in history.glob("cycle-*") if _TAG.fullmatch(path.name)]
    if not found and not (workspace / PARAMS).exists():
        raise UserError(f"{workspace}: no workspace; go into one, or name it with --workspace.")
    if not found:
        raise UserError(
            f"{history}: no cycle to report on; run `serm evolve --workspace {shlex.quote(str(workspace))}` first, or"
            " `serm demo`."
        )
    return sorted(found, key=lambda tag: int(tag.removeprefix("cycle-")))


def _summaries(workspace: Path, tag: str) -> dict[str, dict[str, Any]]:
    return {path.stem: _load(path) for path in sorted((workspace / "history" / tag).glob("*.json"))}


def _users(workspace: Path, tag: str) -> str | None:
    record = workspace / ROLLOUTS / f"{tag}.json"
    return str(_load(record).get("outcome")) if record.exists() else None


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); bring it back with `git checkout -- {path}`.") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a JSON object; bring it back with `git checkout -- {path}`.")
    return loaded


def _settings(repository: Workspace | None, tag: str) -> Settings | None:
    """Return the params.yaml that ``tag`` pins, unless there is no such tag or another SERM wrote it."""
    if repository is None:
        return None
    try:
        return params.parse(repository.show(tag, "params.yaml"))
    except UserError:
        return None
