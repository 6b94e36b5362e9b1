"""What a step costs, as far as the machine tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from serm import step
from serm.errors import UserError


def counter(powercap: Path, name: str, used: int) -> None:
    zone = powercap / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{used}\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")


def test_a_step_counts_each_processor_and_one_that_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "POWERCAP", tmp_path)
    counter(tmp_path, "intel-rapl:0", 1_000_000)
    counter(tmp_path, "intel-rapl:1", 9_000_000)
    counter(tmp_path, "intel-rapl:0:0", 0)  # a part of the first processor, counted there already

    @step.step
    def work() -> step.Figures:
        counter(tmp_path, "intel-rapl:0", 3_500_000)
        counter(tmp_path, "intel-rapl:1", 500_000)
        return {}

    assert work()["joules"] == 4.0


def test_without_counters_nothing_is_said_of_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "POWERCAP", tmp_path / "absent")
    figures = step.step(lambda: {"rows": 1})()
    assert set(figures) == {"rows", "seconds", "peak_memory_mb"}


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    worked = []

    @step.step
    def work(number: int, out: Path) -> step.Figures:
        worked.append(number)
        return {}

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/deeper/out: cannot be written"):
        work(1, tmp_path / "file" / "deeper" / "out")
    with pytest.raises(UserError, match="cannot be written"):
        work(2, out=Path("/proc/serm/out"))
    work(3, tmp_path / "new" / "out")
    assert worked == [3]
    assert list((tmp_path / "new").iterdir()) == []
