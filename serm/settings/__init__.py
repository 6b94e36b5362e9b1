"""params.yaml as typed models with units and bounds, a file a room; nothing else reads that file."""

from __future__ import annotations

from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from serm.errors import UserError
from serm.settings import document
from serm.settings.clicks import ClickSettings
from serm.settings.cycle import CycleSettings
from serm.settings.drift import DriftSettings
from serm.settings.engine import EngineSettings
from serm.settings.evaluation import EvaluationSettings
from serm.settings.judging import JudgingSettings
from serm.settings.kubeflow import KubeflowSettings
from serm.settings.mining import MiningSettings, Threshold
from serm.settings.publish import PublishSettings
from serm.settings.relevance import RelevanceSettings
from serm.settings.rollout import RolloutSettings
from serm.settings.section import Section
from serm.settings.serving import ServingSettings
from serm.settings.stream import StreamSettings
from serm.settings.tests import TestSettings
from serm.settings.training import TrainingSettings
from serm.settings.validation import ValidationSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "ClickSettings",
    "CycleSettings",
    "DriftSettings",
    "EngineSettings",
    "EvaluationSettings",
    "JudgingSettings",
    "KubeflowSettings",
    "MiningSettings",
    "PublishSettings",
    "RelevanceSettings",
    "RolloutSettings",
    "ServingSettings",
    "Settings",
    "StreamSettings",
    "TestSettings",
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
    tests: TestSettings = TestSettings()
    publish: PublishSettings = PublishSettings()
    serving: ServingSettings = ServingSettings()
    rollout: RolloutSettings = RolloutSettings()
    kubeflow: KubeflowSettings = KubeflowSettings()


def load(path: Path) -> Settings:
    """Read params.yaml.

    Raises:
        UserError: the file is missing, is not YAML or holds a key twice, or a field is unknown, missing or out of its
            bounds.
    """
    return parse(document.read_text(path), str(path))


def parse(text: str, name: str = "params.yaml") -> Settings:
    """Parse the text of a params.yaml; ``name`` stands for it in errors. Raises like ``load``."""
    values = document.sections(text, name)
    cycle = values.get("cycle")
    for field, value in cycle.items() if isinstance(cycle, dict) else ():
        if isinstance(value, date):
            raise UserError(f'{name}: cycle.{field}: put quotes around "{value}"; DVC cannot read YAML timestamps.')
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'it'}: {_said(e)}" for e in error.errors(include_url=False))
        raise UserError(f"{name}: {'; '.join(problems)}.") from error


def _said(problem: ErrorDetails) -> str:
    """Return what pydantic says of a problem; of a name that is none with the one that may be meant."""
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    *sections, field = map(str, problem["loc"])
    model: Any = Settings
    for section in sections:
        model = getattr(model.model_fields.get(section), "annotation", None) if hasattr(model, "model_fields") else None
    near = get_close_matches(field, getattr(model, "model_fields", ()), 1)
    return "there is no such setting" + (f", but {near[0]}" if near else "")
