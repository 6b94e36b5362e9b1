"""A training run that is killed, or that runs out of memory, ends as one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder
import tiny_models
import training_data

from serm import relevance

#: A process that has loaded the libraries once, and forks a trainer for each run.
#: sys.argv is data, the settings' section relevance as JSON, and the scenario.
PROGRAM = """
import hashlib, json, os, random, resource, signal, sys, time
from pathlib import Path
from serm import settings as params, training

data, relevance, scenario = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
if relevance.get("family") == "generative":
    import serm.training.generative
import dvclive  # a training imports it; its own address space is not what is to run out
WINDOW = {"number": 1, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}

def settings(**training_settings):
    sections = {"cycle": WINDOW, "relevance": relevance,
                "training": {"threads": 1, "held_out_share": 0.2, **training_settings}}
    return params.parse(json.dumps(sections))

def start(name, memory_mb=None, **training_settings):
    child = os.fork()
    if child == 0:
        if memory_mb:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + (memory_mb << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            training.bootstrap(data / "judgments", data / "documents", data / name, settings(**training_settings))
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child

def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def states(name):
    return {file.stat().st_mtime_ns for file in (data / (name + ".checkpoint")).glob("*.safetensors")}

def killed_after(child, name, count, rng):
    seen = set()
    while len(seen) < count:
        seen |= states(name) if (data / (name + ".checkpoint")).exists() else set()
        time.sleep(0.0005)
    time.sleep(rng.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    return finish(child)

def weights(name):
    file = "adapter/adapter_model" if relevance.get("family") == "generative" else "model"
    return hashlib.sha256((data / name / f"{file}.safetensors").read_bytes()).hexdigest()

told = {}
if scenario == "killed":
    short = {"batch_pairs": 6, "founding_epochs": 3, "checkpoint_steps": 2, "patience": 99, "watch_steps": 5,
             "listwise": "lambda"}
    told["alone"] = finish(start("alone", **short))
    rng = random.Random(11)
    told["kills"] = [killed_after(start("killed", **short), "killed", rng.randint(2, 4), rng) for _ in range(3)]
    told["left"] = [file.name for file in (data / "killed.checkpoint").glob("*.safetensors")]
    told["last"] = finish(start("killed", **short))
    told["same"] = weights("alone") == weights("killed")
    told["after"] = (data / "killed.checkpoint").exists()
else:
    large = {"batch_pairs": 3000, "founding_epochs": 2, "precision": "fp32", "held_out_share": 0}
    told["roomy"] = finish(start("roomy", **large))
    told["narrow"] = finish(start("narrow", memory_mb=int(sys.argv[4]), **large))
print(json.dumps(told))
"""


def cross_encoder(path: Path, dropout: float) -> dict[str, Any]:
    return {"base": str(tiny_encoder.write(path / "encoder", dropout=dropout)), "layers": 2}


def generative(path: Path, dropout: float) -> dict[str, Any]:
    tiny_models.save_base(path / "encoder")
    tiny_models.save_lm(path / "lm")
    options = {"encoder": str(path / "encoder"), "lora_dropout": dropout, "batch_pairs": 6}
    return {"family": "generative", "base": str(path / "lm"), "max_tokens": 16, "generative": options}


def run(*arguments: object) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    # glibc is to give freed memory back, or a process at its limit stays there.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("family", [cross_encoder, generative])
def test_a_killed_run_goes_on_to_the_same_weights(
    family: Callable[[Path, float], dict[str, Any]], tmp_path: Path
) -> None:
    data = training_data.write(tmp_path / "data", queries=30)
    told, said = run(data, json.dumps(family(tmp_path, 0.1)), "killed")
    assert told["alone"] == told["last"] == 0, said
    assert told["kills"] == [-9, -9, -9]
    assert len(told["left"]) == 1  # safetensors, one file, whatever was being written when it died
    assert said.count("goes on after step") == 3
    assert told["same"]
    assert not told["after"]


def test_out_of_memory_halves_the_batch_and_says_so(tmp_path: Path) -> None:
    data = training_data.write(tmp_path / "data", queries=500)
    told, said = run(data, json.dumps(cross_encoder(tmp_path, 0.0)), "memory", 1200)
    assert told["roomy"] == told["narrow"] == 0, said
    assert "out of memory; from step 1 on a batch goes through in 2 parts of about 1500 pairs" in said
    models = [relevance.load(data / name) for name in ("roomy", "narrow")]
    asked = ["cat 1", "sun 4", "flag 8"] * 4, ["cat dog 3", "sun cat 1", "rain dog 2", "flag cat 5"] * 3
    roomy, narrow = (model.score(*asked).expected for model in models)
    np.testing.assert_allclose(roomy, narrow, atol=1e-3)  # without dropout, only rounding tells them apart
    assert np.ptp(roomy) > 0.05
