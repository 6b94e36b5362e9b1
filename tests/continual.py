"""A champion of the tiny encoder and what a cycle would train its challenger on; ``worlds.continual`` makes it once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_encoder
import training_data

from serm import training
from serm.settings import Settings


@dataclass(frozen=True)
class Continual:
    data: Path
    """With ``encoder``, ``validated``, ``annotated`` and ``champion``; nobody changes it."""
    settings: Callable[..., Settings]
    """The settings with others of the section training."""

    @property
    def champion(self) -> Path:
        return self.data / "champion"


def found(data: Path, make_settings: Callable[..., Settings]) -> Continual:
    """Write the data into ``data`` and train the champion there."""
    tiny_encoder.write(data / "encoder")
    training_data.write(data / "validated", queries=80)
    training_data.write(data / "annotated", queries=12, source="panel")

    def settings(**training_settings: Any) -> Settings:
        fast = {"threads": 1, "held_out_share": 0.4, "batch_pairs": 8, "anchors": 0, "controls": ()}
        chosen = fast | training_settings
        return make_settings(relevance={"base": str(data / "encoder"), "layers": 2}, training=chosen)

    training.bootstrap(data / "validated/judgments", data / "validated/documents", data / "champion", settings())
    return Continual(data, settings)


def train(data: Path, champion: Path, out: Path, settings: Settings) -> dict[str, Any]:
    judgments = data / "validated" / "judgments"
    training.train(champion, judgments, data / "annotated", data / "validated", out, settings)
    return json.loads((out / "train.json").read_text())


def weights(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
