"""What the image serm-serve holds is enough for what runs in it, and what it lacks is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serm.errors import UserError
from serm.relevance import load_scorer
from serm.relevance.saved import finish

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib.metadata, re, sys

def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()

held = {canonical(re.split(r"\\W*==|\\[", line)[0]) for line in open(sys.argv[1]) if line[0].isalpha()}
named = {top: set(map(canonical, by)) for top, by in importlib.metadata.packages_distributions().items()}

class Image:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "serm" and top in named and not named[top] & held:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Image)
import serm.serving.predictor, serm.serving.transformer.__main__, serm.serving.storage  # the three entry points
canary = {"ibis", "serm.serving.replay", "serm.rollout.traffic"} & sys.modules.keys()  # what only tries one
import serm.relevance.exported, openvino, safetensors  # an export
import dvc.api, dvc_data.index.index, dvc_s3  # dvc://
try:
    import torch
except ModuleNotFoundError:
    print("whole", *canary)
"""


def test_what_a_request_meets_imports_only_what_its_image_holds_and_nothing_that_tries_a_canary() -> None:
    lock = ROOT / "components/images/serve/requirements.txt"
    done = subprocess.run([sys.executable, "-c", PROGRAM, lock], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "whole\n", done.stderr[-2000:]


@pytest.mark.parametrize(("family", "missing"), [("cross-encoder", "torch"), ("exported", "tokenizers")])
def test_a_model_whose_runtime_the_image_lacks_is_told_with_the_image_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, missing: str
) -> None:
    (tmp_path / "weights.safetensors").touch()
    finish(tmp_path, {"family": family})
    for name in ("model", "exported"):
        monkeypatch.delitem(sys.modules, f"serm.relevance.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"needs {missing}, which is not installed here; .*serm-train"):
        load_scorer(tmp_path)
