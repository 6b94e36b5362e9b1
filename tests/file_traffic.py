"""A traffic backend that is a file: it outlives the process that sets it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.rollout.decision import Health
from serm.rollout.split import Variant
from serm.rollout.traffic import Conflict, State


class FileTraffic:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.down = False
        self.stuck = False
        self.seen: list[int] = []
        self.fares: Mapping[Variant, Health] | UserError | None = None
        if not path.exists():
            self.write("", 0)

    def write(self, experiment: str, percent: int) -> None:
        self.path.write_text(json.dumps([experiment, percent]))
        self.seen.append(percent)

    def read(self) -> State:
        if self.down:
            raise UserError("the backend does not answer")
        return State(*json.loads(self.path.read_text()))

    def set(self, experiment: str, percent: int, seen: State) -> State:
        now = self.read()
        if self.stuck:
            raise UserError("the backend does not answer")
        if (now.experiment, now.percent) != (experiment, percent):
            if now != seen:
                raise Conflict.of("file", now, seen)
            self.write(experiment, percent)
        return self.read()

    def patch(self, experiment: str, percent: int, seen: State) -> Mapping[str, Any]:
        return {"percent": percent}

    def health(self) -> Mapping[Variant, Health] | None:
        if isinstance(self.fares, UserError):
            raise self.fares
        return self.fares
