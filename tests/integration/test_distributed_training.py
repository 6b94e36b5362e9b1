"""Two processes under torchrun train the model that one process trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tiny_encoder
import training_data

from serm import relevance, training
from serm.settings import Settings
from serm.settings import load as load_settings

PROGRAM = """
import hashlib, json, os, sys
from pathlib import Path
from serm import settings as params, training

step = sys.modules["serm.training.train"]  # the module; the package exports the function of that name
data, fitted = Path(sys.argv[1]), []
fine_tune = step.fine_tune
def remember(model, *others):  # each process' own weights: only the first one writes them
    fitted.append((model, fine_tune(model, *others)))
    return fitted[0][1]
step.fine_tune = remember
training.bootstrap(data / "judgments", data / "documents", data / "two", params.load(data / "params.yaml"))
weights = b"".join(value.numpy().tobytes() for value in fitted[0][0].residual.state_dict().values() if value.ndim)
told = {"sha256": hashlib.sha256(weights).hexdigest(), "curve": fitted[0][1].curve}
(data / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told))
"""


def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    encoder = tiny_encoder.write(tmp_path / "encoder", dropout=0.0)
    data = training_data.write(tmp_path / "data")
    settings = {
        "cycle": {"number": 1, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"},
        "relevance": {"base": str(encoder), "layers": 2},
        "training": {"threads": 1, "batch_pairs": 16, "precision": "fp32", "learning_rate": 1e-3},
    }
    (data / "params.yaml").write_text(json.dumps(settings))  # JSON is YAML
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(tmp_path / "program.py"), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((data / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second

    alone: Settings = load_settings(data / "params.yaml")
    figures = training.bootstrap(data / "judgments", data / "documents", data / "one", alone)
    assert abs(figures["loss"] - first["curve"][-1]) < 1e-3
    asked = ["cat 1", "sun 4", "flag 8"] * 4, ["cat dog 3", "sun cat 1", "rain dog 2", "flag cat 5"] * 3
    one, two = (relevance.load(data / name).score(*asked).expected for name in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=5e-3)  # sums in another order; dropout is off in this encoder
    assert np.ptp(one) > 0.05
