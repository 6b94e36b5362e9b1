"""Windows that follow each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st

from serm import contracts, settings
from serm.errors import UserError
from serm.evolve import evolve
from serm.founding.windows import windows as founding_windows
from serm.layout import LOG, PARAMS
from serm.step import Figures
from serm.stream.span import Span, span
from serm.workspace import windows
from serm.workspace.progress import Progress

PARAMS_TEXT = """\
# Ours.
cycle:
  number: 1  # set by hand once
  start: "2026-01-01T00:00:00Z"
  end: "2026-01-15T00:00:00Z"
  every: 7
mining:
  budget: 10  # number: 7
"""
instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda time: time.replace(tzinfo=UTC))


def log_until(root: Path, *times: datetime) -> None:
    rows = len(times)
    values = {
        "event_time": pa.array(times, pa.timestamp("us", "UTC")),
        **{name: ["x"] * rows for name in ("query_id", "session_id", "user_id", "locale", "query", "doc_id")},
        "position": pa.array([1] * rows, pa.int32()),
        "clicked": [False] * rows,
        "negative_feedback": [False] * rows,
        **{name: pa.nulls(rows) for name in ("dwell_seconds", "score", "model_version", "variant")},
    }
    contracts.write(pa.table(values), root / LOG, contracts.IMPRESSIONS)


def workspace(root: Path, after: str | None, *times: datetime) -> settings.Settings:
    (root / PARAMS).write_text(PARAMS_TEXT, encoding="utf-8")
    Progress(after).write(root)
    log_until(root, *times)
    return settings.load(root / PARAMS)


@given(instants, st.floats(0.01, 1000), st.integers(1, 9998))
def test_another_cycle_is_written_without_a_word_changed_beside_it(start: datetime, days: float, number: int) -> None:
    start = start.replace(microsecond=0)
    of = settings.parse(PARAMS_TEXT).cycle
    end = (start + timedelta(days=days)).replace(microsecond=0) + timedelta(seconds=1)
    text = windows.with_cycle(PARAMS_TEXT, of.model_copy(update={"number": number, "start": start, "end": end}))
    found = settings.parse(text)
    assert (found.cycle.number, found.cycle.start, found.cycle.end) == (number, start, end)
    lines, before = text.splitlines(), PARAMS_TEXT.splitlines()
    assert lines[:2] + lines[5:] == before[:2] + before[5:]
    assert lines[2].endswith("# set by hand once")


def test_a_cycle_that_is_written_otherwise_is_one_sentence() -> None:
    text = 'cycle: {number: 1, start: "2026-01-01T00:00:00Z", end: "2026-01-15T00:00:00Z"}\n'
    with pytest.raises(UserError, match=r"cycle\.number stands on no line of its own"):
        windows.with_cycle(text, settings.parse(text).cycle)


def test_a_cycle_that_is_not_done_stays(tmp_path: Path) -> None:
    given = workspace(tmp_path, "cycle-0000", datetime(2026, 3, 1, tzinfo=UTC))
    assert windows.go_on(tmp_path, given, lambda: span(tmp_path / LOG, given).last) == given
    assert (tmp_path / PARAMS).read_text(encoding="utf-8") == PARAMS_TEXT


def test_the_next_window_is_taken_once_the_log_covers_it(tmp_path: Path) -> None:
    given = workspace(tmp_path, "cycle-0001", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 21, 23, tzinfo=UTC))
    found = windows.go_on(tmp_path, given, lambda: span(tmp_path / LOG, given).last)
    assert found is not None
    assert found.cycle.name == "cycle-0002"
    assert (found.cycle.start, found.cycle.end) == (given.cycle.end, datetime(2026, 1, 22, tzinfo=UTC))
    assert settings.load(tmp_path / PARAMS) == found


def test_a_window_that_the_log_does_not_cover_yet_is_not_taken(tmp_path: Path) -> None:
    given = workspace(tmp_path, "cycle-0001", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 20, tzinfo=UTC))
    assert windows.go_on(tmp_path, given, lambda: span(tmp_path / LOG, given).last) is None
    assert (tmp_path / PARAMS).read_text(encoding="utf-8") == PARAMS_TEXT
    found = span(tmp_path / LOG, given)
    assert (found.first, found.last) == (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 20, tzinfo=UTC))
    assert found.days == (found.first, found.last)


def first_of_days(times: list[datetime]) -> tuple[datetime, ...]:
    return tuple({time.date(): time for time in reversed(times)}.values())[::-1]


@given(instants, st.lists(st.floats(0, 400), min_size=2, max_size=30), st.floats(1, 60))
def test_the_first_two_windows_follow_each_other_and_both_have_impressions(
    start: datetime, offsets: list[float], every: float
) -> None:
    times = sorted(start + timedelta(days=days) for days in offsets)
    if times[-1] - times[0] < timedelta(seconds=5):
        times.append(times[-1] + timedelta(seconds=5))
    found = Span(times[0], times[-1], first_of_days(times))
    (begin, until), (again, last), notes = founding_windows(found, every)
    assert begin < until <= again < last
    assert times[-1] <= last <= times[-1] + timedelta(seconds=1)
    halved = bool(notes) and "shorter" in notes[0]
    for low, high in [(again, last)] if halved else [(begin, until), (again, last)]:
        assert any(low <= time < high for time in times)
    if not halved:
        assert last - again == timedelta(days=every)
        assert until - begin <= timedelta(days=every)
        assert any("begins late" in note for note in notes) == (until - begin < timedelta(days=every))


def test_a_log_of_one_moment_has_no_windows() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(UserError, match="no two windows"):
        founding_windows(Span(moment, moment, (moment,)), 14)


def test_the_reference_window_is_before_a_gap() -> None:
    days = tuple(datetime(2026, month, day, 12, tzinfo=UTC) for month, day in ((1, 1), (1, 20), (3, 1)))
    found = Span(days[0], days[-1], days)
    reference, window, (note,) = founding_windows(found, 14)
    assert reference == (datetime(2026, 1, 7, tzinfo=UTC), datetime(2026, 1, 21, tzinfo=UTC))
    assert window[0] == datetime(2026, 2, 15, 12, 0, 1, tzinfo=UTC)
    assert "a gap from 2026-01-21 on" in note


def test_a_log_that_begins_in_the_reference_window_gives_what_it_has_of_it() -> None:
    days = tuple(datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 5, 20))
    found = Span(days[0], days[-1], days)
    reference, window, notes = founding_windows(found, 11)
    assert window == (datetime(2026, 1, 9, 12, 0, 1, tzinfo=UTC), datetime(2026, 1, 20, 12, 0, 1, tzinfo=UTC))
    assert reference == (days[0], datetime(2026, 1, 6, tzinfo=UTC))
    assert "the reference window has 4.5 of 11 days" in notes[1]


def test_the_first_window_may_lie_after_the_log_and_is_compared_with_what_is_before_it() -> None:
    days = tuple(datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 20))
    found, ahead = Span(days[0], days[-1], days), (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    assert founding_windows(found, 14, ahead) == ((datetime(2026, 1, 18, tzinfo=UTC), ahead[0]), ahead, [])
    assert founding_windows(found, 60, ahead)[0] == (days[0], ahead[0])
    with pytest.raises(UserError, match="nothing of it lies in the 5 days before"):
        founding_windows(found, 5, ahead)


@pytest.mark.parametrize(("through", "ran"), [(None, [2]), (datetime(2026, 1, 30, tzinfo=UTC), [2, 3])])
def test_evolve_runs_the_windows_asked_for_and_leaves_params_at_the_last_one(
    through: datetime | None, ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace(tmp_path, "cycle-0001", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".serm").mkdir()
    monkeypatch.setattr("serm.evolve.is_done", lambda *_: False)
    monkeypatch.setattr("serm.evolve.run_cycle", lambda *_: {})
    monkeypatch.setattr("serm.evolve.advance", lambda root, of: Progress(of.cycle.name).write(root))
    shown: list[str] = []
    evolve(tmp_path, lambda tag, _: shown.append(tag), through=through)
    assert shown == [f"cycle-{number:04d}" for number in ran]
    assert settings.load(tmp_path / PARAMS).cycle.number == ran[-1]


@pytest.fixture
def stepless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A workspace past cycle 1, whose log reaches to the end of January; what runs in it, and what is told."""
    workspace(tmp_path, "cycle-0001", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".serm").mkdir()
    done: set[str] = set()
    told: list[str] = []

    def run(root: Path, _: bool) -> dict[str, Figures]:
        done.add(settings.load(root / PARAMS).cycle.name)
        return {}

    def advance(root: Path, of: settings.Settings) -> None:
        Progress(of.cycle.name, "kept").write(root)

    monkeypatch.setattr("serm.evolve.is_done", lambda _, tag: tag in done)
    monkeypatch.setattr("serm.evolve.run_cycle", run)
    monkeypatch.setattr("serm.evolve.advance", advance)
    return told


def test_a_base_that_reads_too_little_is_told_before_the_cycle_runs(tmp_path: Path, stepless: list[str]) -> None:
    base = tiny_encoder.write(tmp_path / "encoder", positions=16)
    params = tmp_path / PARAMS
    params.write_text(params.read_text() + f"relevance: {{base: {base}, max_tokens: 48}}\n")
    with pytest.raises(UserError, match="reads at most 16 tokens"):
        evolve(tmp_path, lambda tag, _: stepless.append(tag))
    assert not stepless


def test_a_held_cycle_waits_and_the_next_evolve_says_that_it_advanced(tmp_path: Path, stepless: list[str]) -> None:
    evolve(tmp_path, lambda tag, _: stepless.append(tag), stepless.append, hold=True)
    assert stepless[0] == "cycle-0002"
    assert "cycle-0002 is held: look at it (`serm report`), then `serm advance`" in stepless[1]
    assert Progress.read(tmp_path).after == "cycle-0001"
    stepless.clear()
    evolve(tmp_path, lambda tag, _: stepless.append(tag), stepless.append)
    assert stepless == ["Advanced past cycle-0002: the champion is kept."]
    evolve(tmp_path, lambda tag, _: stepless.append(tag), stepless.append, hold=True)
    assert stepless[1] == "cycle-0003"


@pytest.mark.parametrize(
    ("through", "last", "words"),
    [
        (datetime(2026, 1, 23, tzinfo=UTC), "cycle-0002", "cycle-0003 ends 2026-01-29 00:00 UTC, after --through"),
        (datetime(2026, 3, 1, tzinfo=UTC), "cycle-0003", "it reaches to 2026-01-31 00:00 UTC, and cycle-0004 is of"),
    ],
)
def test_catching_up_says_how_it_ended_and_again_runs_nothing_past_its_end(
    through: datetime, last: str, words: str, tmp_path: Path, stepless: list[str]
) -> None:
    evolve(tmp_path, lambda tag, _: stepless.append(tag), stepless.append, through=through)
    assert words in stepless[-1]
    assert stepless[-2] == f"Advanced past {last}: the champion is kept."
    if "after --through" in words:
        evolve(tmp_path, lambda tag, _: stepless.append(tag), stepless.append, through=through)
        assert stepless[-1] == stepless[-2]
    assert Progress.read(tmp_path).after == last


def test_the_rolling_test_set_is_renewed_before_its_cycle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path, "cycle-0001", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
    params = tmp_path / PARAMS
    params.write_text(params.read_text() + "tests: {draw: 7}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".serm").mkdir()
    order: list[str] = []
    shown: list[dict[str, Figures]] = []

    def renew(root: Path, of: settings.Settings) -> Figures:
        order.append(f"renew {of.cycle.number}")
        return {"drawn": of.tests.draw}

    monkeypatch.setattr("serm.evolve.renew", renew)
    monkeypatch.setattr("serm.evolve.is_done", lambda *_: False)

    def run_cycle(*_: object) -> dict[str, Figures]:
        order.append("run")
        return {}

    monkeypatch.setattr("serm.evolve.run_cycle", run_cycle)
    monkeypatch.setattr("serm.evolve.advance", lambda root, of: Progress(of.cycle.name).write(root))
    evolve(tmp_path, lambda _, costs: shown.append(costs))
    assert order == ["renew 2", "run"]
    assert shown == [{"tests": {"drawn": 7}}]
