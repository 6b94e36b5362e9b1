"""Traffic by the transformer's file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serm.errors import UserError
from serm.rollout import controller, traffic
from serm.rollout.traffic import Conflict, State
from serm.serving.transformer import experiment
from serm.settings import RolloutSettings

TOLD = (
    "import signal, sys; signal.signal(signal.SIGHUP, lambda *_: sys.exit(7)); print('on', flush=True); signal.pause()"
)


def test_what_is_set_is_what_the_transformer_reads_and_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text("{name: older, percent: 0, layer: ranking, high: 50}")
    process = subprocess.Popen([sys.executable, "-c", TOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    (tmp_path / "pid").write_text(f"{process.pid}\n")
    options = {"experiment": str(file), "pid_files": [str(tmp_path / "pid")]}
    with traffic.connect("transformer", options, "", "") as backend:
        assert isinstance(backend, traffic.Traffic)
        assert backend.set("cycle-0003", 10, backend.read()) == State("cycle-0003", 10) == backend.read()
        assert process.wait(10) == 7
        read = experiment.read(file)
        assert (read.name, read.percent, read.layer, read.high) == ("cycle-0003", 10, "ranking", 50)
        with pytest.raises(Conflict, match="where 5 % of 'cycle-0003' was read"):
            backend.set("cycle-0003", 25, State("cycle-0003", 5))
        backend.set("cycle-0003", 0, backend.read())  # who is gone reads it when it starts
        assert yaml.safe_load(file.read_text())["percent"] == 0


def test_one_pid_that_cannot_be_told_keeps_no_other_from_being_told(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", TOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    (tmp_path / "pid").write_text(f"{process.pid}\n")
    (tmp_path / "damaged").write_text("none")
    pids = [str(tmp_path / name) for name in ("gone", "damaged", "pid")]
    options = {"experiment": str(tmp_path / "experiment.yaml"), "pid_files": pids}
    with traffic.connect("transformer", options, "", "") as backend:
        with pytest.raises(UserError, match="damaged: its transformer cannot be told to read the experiment"):
            backend.set("cycle-0003", 10, backend.read())
        assert process.wait(10) == 7
        assert backend.read().percent == 10


def test_a_rollout_of_interleaved_pages_is_refused_before_it_begins_and_can_always_be_taken_back(
    tmp_path: Path,
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text("{name: older, percent: 0, interleave: true}")
    with traffic.connect("transformer", {"experiment": str(file)}, "", "") as backend:
        with pytest.raises(UserError, match=r"experiment.yaml: interleave is true"):
            controller.start(tmp_path / "rollout", "cycle-0003", RolloutSettings(), backend)
        assert not list((tmp_path / "rollout").glob("*.json"))
        file.write_text("{name: cycle-0003, percent: 5, interleave: true}")
        assert backend.set("cycle-0003", 0, backend.read()).percent == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "holds no experiment"),
        ("{percent: no}", "is none"),
        ("{percent: 2.5}", "no whole"),
        ("{", "no readable"),
    ],
)
def test_a_file_that_is_no_experiment_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "e").write_text(text)
    options: dict[str, Any] = {"experiment": str(tmp_path / "e")}
    with traffic.connect("transformer", options, "", "") as backend, pytest.raises(UserError, match=told):
        backend.read()


def test_without_a_file_nobody_sees_a_challenger(tmp_path: Path) -> None:
    with traffic.connect("transformer", {"experiment": str(tmp_path / "e")}, "", "") as backend:
        assert backend.read() == State("", 0)
        assert backend.health() is None
