"""The images' Dockerfile and lock files: clean, hashed, without root, and of the versions that are tested."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import images
from serm.cli.extras import requirements

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "components/images"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
IMAGES = ("data", "train", "judge", "serve")
#: What each image's steps (serm/steps.py) and servers need, as extras.
EXTRAS = {
    "data": ("data",),
    "train": ("drift", "train", "serve", "s3"),
    "judge": ("judge", "s3"),
    "serve": ("serve", "s3"),
}


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked(image: str) -> dict[str, tuple[str, list[str]]]:
    text = (FOLDER / image / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split() for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {_key(words[0].partition("==")[0]): (words[0].partition("==")[2], words[1:]) for words in lines}


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert hadolint, "hadolint is not there; pip install 'serm[dev]' brings it"
    done = subprocess.run([hadolint, "--no-color", FOLDER / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_run_as_a_fixed_user_without_an_entrypoint() -> None:
    instructions = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)]
    last = len(instructions) - 1 - [one[0] for one in reversed(instructions)].index("FROM")
    stage = instructions[last:]
    assert ["USER", "10001:10001"] in stage
    assert "ENTRYPOINT" not in [one[0] for one in instructions]
    assert DOCKERFILE.count("org.opencontainers.image.") == 6
    assert "--require-hashes" in DOCKERFILE


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_of_an_image_is_of_the_tested_version_and_hashed(image: str) -> None:
    pinned = dict(
        (_key(name), version)
        for name, _, version in (
            line.partition("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        )
        if version
    )
    locked = _locked(image)
    assert len(locked) > 70
    for name, (version, hashes) in locked.items():
        assert version.partition("+")[0] == pinned.get(name, version.partition("+")[0]), name
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name
    assert "nvidia-cublas" not in locked
    assert locked.get("torch", ("+cpu", []))[0].endswith("+cpu")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_all_that_runs_in_it(image: str) -> None:
    brought, locked = requirements(), _locked(image)
    wanted = {_key(name) for extra in ("", *EXTRAS[image]) for name in brought[extra]}
    assert wanted <= locked.keys()
    if image == "serve":  # where no step runs
        assert not {"kfp", "torch", "transformers", "scipy"} & locked.keys()
    else:
        assert importlib.metadata.version("kfp") == locked["kfp"][0]


def test_each_image_that_components_name_has_its_lock() -> None:
    named = {name.lower() for name in dir(images) if name.isupper() and not name.startswith("_")}
    assert named == set(IMAGES) == {path.parent.name for path in FOLDER.glob("*/requirements.txt")}


def test_an_images_tag_is_serms_version() -> None:
    for name in IMAGES:
        tag = getattr(images, name.upper()).rpartition(":")[2]
        assert tag.startswith(f"{importlib.metadata.version('serm')}-"), name
