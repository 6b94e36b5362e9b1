"""params.yaml as typed models with units and bounds, a file a room; nothing else reads that file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import yaml
from pydantic import ValidationError

from serm.errors import UserError
from serm.settings.drift import DriftSettings
from serm.settings.evaluation import EvaluationSettings
from serm.settings.judging import JudgingSettings
from serm.settings.mining import ClickSettings, MiningSettings, Threshold
from serm.settings.section import Section
from serm.settings.serving import ServingSettings
from serm.settings.stream import CycleSettings, EngineSettings, StreamSettings, ValidationSettings
from serm.settings.training import RelevanceSettings, TrainingSettings

__all__ = [
    "ClickSettings",
    "CycleSettings",
    "DriftSettings",
    "EngineSettings",
    "EvaluationSettings",
    "JudgingSettings",
    "MiningSettings",
    "RelevanceSettings",
    "ServingSettings",
    "Settings",
    "StreamSettings",
    "Threshold",
    "TrainingSettings",
    "ValidationSettings",
    "load",
    "parse",
]


class Settings(Section):
    """All of params.yaml."""

    cycle: CycleSettings
    engine: EngineSettings = EngineSettings()
    stream: StreamSettings = StreamSettings()
    validation: ValidationSettings = ValidationSettings()
    drift: DriftSettings = DriftSettings()
    clicks: ClickSettings = ClickSettings()
    mining: MiningSettings = MiningSettings()
    judging: JudgingSettings = JudgingSettings()
    relevance: RelevanceSettings = RelevanceSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    serving: ServingSettings = ServingSettings()


def load(path: Path) -> Settings:
    """Read params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or a field is unknown, missing or out of its bounds.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path with --params.") from error
    return parse(text, str(path))


def parse(text: str, name: str = "params.yaml") -> Settings:
    """Parse the text of a params.yaml; ``name`` stands for it in errors. Raises like ``load``."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected sections such as 'cycle:', found {type(values).__name__}.")
    for field, value in (values.get("cycle") or {}).items():
        if isinstance(value, date):
            raise UserError(f'{name}: cycle.{field}: put quotes around "{value}"; DVC cannot read YAML timestamps.')
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise UserError(f"{name}: {'; '.join(problems)}.") from error
