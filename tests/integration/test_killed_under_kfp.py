"""A step that is killed under Kubeflow Pipelines goes on in its next try, which has a disk of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tiny_encoder
import training_data

ROOT = Path(__file__).parents[2]
#: sys.argv is the data, the try's own disk, what the tries share, and params.yaml as JSON.
TRY = """
import sys
from kfp import dsl, local
from components.train.component import train

data, disk, kept, settings = sys.argv[1:]

@dsl.pipeline(name="one-step")
def one_step(settings: str, kept: str):
    def given(name, kind):
        return dsl.importer(artifact_uri=f"{data}/{name}", artifact_class=kind).set_display_name(name).output
    train(champion=given("champion", dsl.Model), judgments=given("judgments", dsl.Dataset),
          annotated=given("annotated", dsl.Dataset), validated=given("validated", dsl.Dataset),
          settings=settings, kept=kept)

local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=disk)
one_step(settings=settings, kept=kept)
"""
FOUND = """
import json, sys
from pathlib import Path
from serm import settings as params, training

data, settings = Path(sys.argv[1]), params.parse(sys.argv[2])
training.bootstrap(data / "judgments", data / "documents", data / "champion", settings)
"""


def test_a_killed_train_goes_on_in_its_next_try(tmp_path: Path) -> None:
    data = training_data.write(tmp_path / "data", queries=20)
    training_data.write(data / "validated", queries=1)
    training_data.write(data / "annotated", queries=12, source="panel")
    kept = tmp_path / "kept"
    settings = {
        "cycle": {"number": 1, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"},
        "relevance": {"base": str(tiny_encoder.write(tmp_path / "encoder")), "layers": 2},
        "training": {
            "threads": 1,
            "batch_pairs": 4,
            "checkpoint_steps": 2,
            "anchors": 0,
            "founding_epochs": 1,
            "controls": [],
        },
    }
    _run(FOUND, data, json.dumps(settings)).check_returncode()
    first = subprocess.Popen(
        [sys.executable, "-c", TRY, data, tmp_path / "one", kept, json.dumps(settings)],
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(kept.rglob("*.safetensors")):
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not list((tmp_path / "one").rglob("train.json"))
    second = _run(TRY, data, tmp_path / "two", kept, json.dumps(settings))
    assert second.returncode == 0, second.stdout[-3000:]
    assert "goes on after step" in second.stdout
    assert len(list((tmp_path / "two").rglob("train.json"))) == 1
    assert not list(kept.rglob("*.safetensors"))


def _run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
