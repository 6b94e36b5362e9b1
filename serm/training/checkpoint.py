"""A training run's state on disk, so that a killed run goes on to the same weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from serm.atomic import replace_file
from serm.settings import Settings
from serm.step import unfinished
from serm.training.examples import Examples
from serm.training.processes import processes


@dataclass(frozen=True)
class Checkpoints:
    """The newest state of a run, one file, replaced whole or not at all; no pickle."""

    directory: Path
    """Stands beside the step's output, and goes when the step is done."""
    key: str
    """A hash of all that the run's result depends on: the state of another run is never taken."""
    every: int
    """Steps between two states."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / f"{self.key}.safetensors"

    def save(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Replace the state; ``numbers`` is what JSON can hold."""
        with replace_file(self.path) as beside:
            save_file(tensors, beside, metadata={"numbers": json.dumps(numbers)})

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the tensors and numbers of the newest state, or None if there is none of this run."""
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            numbers: dict[str, Any] = json.loads(file.metadata()["numbers"])
            return {name: file.get_tensor(name) for name in file.keys()}, numbers  # noqa: SIM118 (not a dict)

    def remove(self) -> None:
        """Forget the run's states, and those of runs before it that never ended."""
        shutil.rmtree(self.directory, ignore_errors=True)


def checkpoints_of(
    out: Path, settings: Settings, depends: list[str | Examples], kept: Path | None = None
) -> Checkpoints:
    """Return where a run's state is kept: as ``step.unfinished`` says, under a hash of all that the run depends on."""
    digest = hashlib.sha256(f"torch {torch.__version__}, {processes().num_processes} processes".encode())
    digest.update(f"{settings.relevance!r} {settings.training!r}".encode())
    for one in depends:
        digest.update(repr(one if isinstance(one, str) else [c.tolist() for c in one.columns()]).encode())
    every = settings.training.checkpoint_steps
    return Checkpoints(unfinished(out, "checkpoint", kept), digest.hexdigest()[:32], every)
