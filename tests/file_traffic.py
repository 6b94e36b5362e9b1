"""A traffic backend that is a file: it outlives the process that sets it. And a log of the users that it split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from serm import contracts
from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic import Conflict, State


def connect(options: Mapping[str, Any], namespace: str, service: str) -> AbstractContextManager[FileTraffic]:
    """Return the backend as an entry point of ``serm.traffic`` does; ``options`` are ``rollout.traffic_options``."""
    return nullcontext(FileTraffic(Path(options["path"])))


def write_log(path: Path, start: datetime, users: int) -> None:
    """Write a joined log in which so many users of each group search once, in the hour after ``start``, and click."""
    row = {"query": "lamp", "locale": "en", "doc_id": "d", "position": 1, "clicked": True, "dwell_seconds": 40.0}
    row |= {"negative_feedback": False, "score": 1.0, "model_version": "m"}
    rows = []
    for n in range(2 * users):
        who = {"query_id": f"q{n}", "session_id": f"s{n}", "user_id": f"u{n}"}
        when = start + timedelta(seconds=60 + 3000 * n / (2 * users))
        rows.append({**row, **who, "event_time": when, "variant": ("challenger", "control")[n % 2]})
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), path, contracts.IMPRESSIONS)


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
