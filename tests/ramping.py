"""A rollout of two steps on users, servers and traffic that a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from file_traffic import FileTraffic

from serm.rollout import controller, look, record
from serm.rollout.estimates import Estimate
from serm.rollout.health import Health
from serm.rollout.metrics import METRICS
from serm.rollout.split import Variant
from serm.settings import EngineSettings, RolloutSettings

START = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = RolloutSettings(steps=(1, 10, 50), unwatched=("errors", "latency"))
ENGINE = EngineSettings()
NAME = "cycle-0003"


@dataclass
class Users:
    """What the log will say: users a step in each group, and lifts of the challenger."""

    lifts: dict[str, float] = field(default_factory=dict)
    a_step: int = 5000
    lost: int = 0
    """Of the challenger's group, at each step."""

    def read(self, log: Path, stages: Any, until: datetime, settings: RolloutSettings, on: Any) -> Any:
        n = self.a_step * len(stages)
        values: dict[str, Estimate] = {
            name: Estimate(name, (n, n), 0.4 * (1 + METRICS[name].better * self.lifts.get(name, 0)), 0.4, 25e-8, 0)
            for name in settings.metrics
        }
        return look.Seen([(self.a_step - self.lost, self.a_step)] * len(stages), 0, values)


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    found = Users()
    monkeypatch.setattr(look, "read", found.read)
    return found


@pytest.fixture
def traffic(tmp_path: Path) -> FileTraffic:
    return FileTraffic(tmp_path / "traffic")


def begin(tmp_path: Path, traffic: FileTraffic) -> record.Record:
    return controller.start(tmp_path / "rollout", NAME, SETTINGS, traffic, START)


def fares(challenger: tuple[int, int], champion: tuple[int, int]) -> dict[Variant, Health]:
    """Requests and errors that a backend has counted since it started."""
    return {"challenger": Health(*challenger, 40.0), "champion": Health(*champion, 40.0)}


def tick(tmp_path: Path, traffic: FileTraffic, day: float, **more: Any) -> controller.Tick:
    at = START + timedelta(days=day)
    return controller.tick(tmp_path / "rollout", NAME, tmp_path / "log", ENGINE, traffic, at, **more)


def saved(tmp_path: Path) -> record.Record:
    return record.load(tmp_path / "rollout" / f"{NAME}.json")
