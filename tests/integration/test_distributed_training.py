"""Two processes under torchrun train the model that one process trains, in either family."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiny_encoder
import tiny_models
import training_data

from serm import relevance, training
from serm.settings import load as load_settings

PROGRAM = """
import hashlib, json, os, sys
from pathlib import Path
from serm import settings as params, training

step = sys.modules["serm.training.train"]  # the module; the package exports the function of that name
data, fitted = Path(sys.argv[1]), []
fine_tune = step.fine_tune
def remember(task, *others):  # each process' own weights: only the first one writes them
    fitted.append((task.module, fine_tune(task, *others)))
    return fitted[-1][1]
step.fine_tune = remember
for family in ("cross-encoder", "generative"):
    two = data / f"{family}-two"
    training.bootstrap(data / "judgments", data / "documents", two, params.load(data / f"{family}.yaml"))
    weights = b"".join(p.detach().numpy().tobytes() for p in fitted[-1][0].parameters() if p.requires_grad)
    told = {"sha256": hashlib.sha256(weights).hexdigest(), "curve": fitted[-1][1].curve}
    told["processes"] = step.processes().num_processes
    (data / f"{family}-{os.environ['RANK']}.json").write_text(json.dumps(told))
"""


def write_settings(path: Path) -> None:
    """Without dropout and in fp32, so that only the order of sums tells the runs apart."""
    tiny_models.save_base(path / "text-encoder")
    tiny_models.save_lm(path / "lm")
    generative = {"encoder": str(path / "text-encoder"), "lora_dropout": 0, "learning_rate": 1e-2, "batch_pairs": 16}
    families: dict[str, Any] = {
        "cross-encoder": {"base": str(tiny_encoder.write(path / "encoder", dropout=0.0)), "layers": 2},
        "generative": {"family": "generative", "base": str(path / "lm"), "max_tokens": 16, "generative": generative},
    }
    for name, section in families.items():
        settings = {
            "cycle": {"number": 1, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"},
            "relevance": section,
            "training": {"threads": 1, "batch_pairs": 16, "precision": "fp32", "learning_rate": 1e-3},
        }
        (path / f"{name}.yaml").write_text(json.dumps(settings))  # JSON is YAML


def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    data = training_data.write(tmp_path / "data")
    write_settings(data)
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(tmp_path / "program.py"), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    asked = ["cat 1", "sun 4", "flag 8"] * 4, ["cat dog 3", "sun cat 1", "rain dog 2", "flag cat 5"] * 3
    for family in ("cross-encoder", "generative"):
        first, second = (json.loads((data / f"{family}-{rank}.json").read_text()) for rank in (0, 1))
        assert first == second
        assert first["processes"] == 2
        settings = load_settings(data / f"{family}.yaml")
        figures = training.bootstrap(data / "judgments", data / "documents", data / f"{family}-one", settings)
        assert abs(figures["loss"] - first["curve"][-1]) < 1e-3
        one, two = (relevance.load(data / f"{family}-{name}").score(*asked).expected for name in ("one", "two"))
        np.testing.assert_allclose(one, two, atol=5e-3)  # sums in another order
        assert np.ptp(one) > 0.025  # five times what is let pass
