"""What a training run leaves behind for people and tools: DVC's metrics and plots, and where the model comes from.

Both are the same bytes for the same run, whoever runs it: nothing in them tells the time, the machine or the commit.
Those stand in the cycle's model card and costs, which are not outputs that DVC hashes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dvclive.live import Live

from serm.atomic import write_json
from serm.settings import Settings
from serm.training.fit import REPORT_STEPS, Fitted

_LIBRARIES = ("accelerate", "numpy", "safetensors", "serm", "tokenizers", "torch", "transformers")


def track(directory: Path, fitted: Fitted, metrics: Mapping[str, float]) -> None:
    """Write the loss curve, the watched losses and ``metrics`` in DVC's form, through dvclive.

    ``dvc metrics show`` and ``dvc plots show`` read them in a workspace (see its dvc.yaml).
    """
    os.environ["DVC_NO_ANALYTICS"] = os.environ["DVC_STUDIO_OFFLINE"] = "1"
    logging.getLogger("dvclive").setLevel(logging.ERROR)
    with Live(str(directory), save_dvc_exp=False, dvcyaml=None) as live:
        for number, loss in enumerate(fitted.curve):
            live.step = min(REPORT_STEPS * (number + 1), fitted.steps)
            live.log_metric("loss", loss)
        for step, loss in fitted.watched:
            live.step = step
            live.log_metric("watched_loss", loss)
        for name, value in metrics.items():
            live.log_metric(name, value, plot=False)
    for left in directory.glob("*.yaml"):
        left.unlink()


def write_provenance(model: Path, settings: Settings, inputs: Mapping[str, Path]) -> None:
    """Write ``provenance.json`` into a model's directory: settings and seed, versions, and hashes of the data.

    Args:
        model: the directory of a saved model.
        settings: the sections ``training`` and ``relevance`` are written.
        inputs: name -> a dataset or model that it was made from; hashed is the content of all files in it.
    """
    known = {
        "seed": settings.training.seed,
        "settings": {
            "relevance": settings.relevance.model_dump(mode="json"),
            "training": settings.training.model_dump(mode="json"),
        },
        "versions": {name: version(name) for name in _LIBRARIES},
        "sha256": {name: _sha256(path) for name, path in inputs.items()},
    }
    write_json(model / "provenance.json", known)


def _sha256(path: Path) -> str:
    """Return a hash of the names and bytes of all files under ``path``."""
    digest: Any = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        with file.open("rb") as opened:
            digest.update(f"{file.relative_to(path)} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return str(digest.hexdigest())
