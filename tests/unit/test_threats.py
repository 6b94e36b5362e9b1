"""The threat model: each test that docs/threat-model.md names is there; and the robot that nothing else covers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.rollout import look
from serm.rollout.decision import Look, decide
from serm.settings import EngineSettings, RolloutSettings

ROOT = Path(__file__).parents[2]
START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS, USERS, CLICKS = 9, 1_500, 100_000
SETTINGS = RolloutSettings(before_days=0)


def test_every_test_that_the_page_names_is_there() -> None:
    named, file = 0, ""
    for path, function in re.findall(r"(tests/[\w/]+\.py)|::(\w+)", (ROOT / "docs/threat-model.md").read_text("utf-8")):
        file = path or file
        assert (ROOT / file).is_file(), file
        if function:
            named += 1
            assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{function}"
    assert named > 25


def _log(robot: bool) -> pa.Table:
    """Searches of one document: users of both groups who are satisfied alike, and perhaps a robot who always is."""
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(2 * USERS), 4)
    minutes = rng.uniform(0, DAYS * 1440 - 60, len(users))
    clicked = rng.random(len(users)) < 0.4
    if robot:
        users = np.concatenate([users, np.full(CLICKS, 2 * USERS)])
        minutes = np.concatenate([minutes, np.linspace(0, DAYS * 1440 - 60, CLICKS)])
        clicked = np.concatenate([clicked, np.ones(CLICKS, bool)])
    count = len(users)
    start = np.datetime64(START.replace(tzinfo=None), "us")
    columns = {
        "event_time": pa.array(start + (minutes * 6e7).astype("timedelta64[us]"), pa.timestamp("us", "UTC")),
        "query_id": [f"q{row}" for row in range(count)],
        "session_id": [f"s{user}" for user in users],
        "user_id": [f"u{user}" for user in users],
        "locale": ["en"] * count,
        "query": ["lamp"] * count,
        "doc_id": ["d1"] * count,
        "position": [1] * count,
        "clicked": clicked,
        "dwell_seconds": np.where(clicked, 60.0, np.nan),
        "negative_feedback": [False] * count,
        # The robot is in the challenger's group: it wants it promoted.
        "variant": np.where((users % 2 == 0) | (users == 2 * USERS), "challenger", "control"),
    }
    kept = [field for field in contracts.IMPRESSIONS if field.name in columns]
    known = {field.name: pa.array(columns[field.name], field.type, from_pandas=True) for field in kept}
    fields = [known.get(field.name, pa.nulls(count, field.type)) for field in contracts.IMPRESSIONS]
    return pa.table(fields, schema=contracts.IMPRESSIONS)


def _seen(log: Path, settings: RolloutSettings) -> look.Seen:
    until = START + timedelta(days=DAYS)
    return look.read(log, [START], until, settings, EngineSettings(threads=1, memory_gb=1))


def test_a_bot_of_100_000_clicks_moves_no_rollout(tmp_path: Path) -> None:
    lifts = {}
    for robot in (False, True):
        contracts.write(_log(robot), tmp_path / "log", contracts.IMPRESSIONS)
        seen = _seen(tmp_path / "log", SETTINGS)
        at = START + timedelta(days=DAYS)
        decided = decide(
            Look(at, 50, START, START, users=seen.users, crossed=seen.crossed, estimates=seen.estimates), SETTINGS
        )
        assert (decided.action, decided.percent) == ("hold", 50)
        satisfied = seen.estimates["satisfied_clicks"]
        lifts[robot] = satisfied.challenger - satisfied.control
    assert abs(lifts[True] - lifts[False]) < 0.001
    counted = _seen(tmp_path / "log", SETTINGS.model_copy(update={"winsorise": 1.0})).estimates["satisfied_clicks"]
    assert counted.challenger - counted.control > 0.5  # what a count of clicks would have believed
