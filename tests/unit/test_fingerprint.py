"""What makes a run another one, so that no step of it is taken from the cache."""

import shutil

import pytest

from serm.workspace.provenance import PIPELINE
from serm.workspace.runner import PACKAGE, fingerprint


@pytest.fixture
def package(tmp_path):
    return shutil.copytree(PACKAGE, tmp_path / "serm", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "shop/state").mkdir(parents=True)
    (tmp_path / "shop/params.yaml").write_text("cycle: {}\n")
    (tmp_path / "shop/log.dvc").write_text("outs: []\n")
    return tmp_path / "shop"


def test_a_change_in_any_file_of_the_package_is_another_run(root, package):
    kinds = {path.suffix: path for path in sorted(package.rglob("*")) if path.is_file()}
    assert {".py", ".sql", ".jinja", ".css", ".js", ".yaml"} <= kinds.keys()
    kinds["ubi"] = package / "stream" / "ubi.sql"
    seen = {fingerprint(root, PIPELINE, package)}
    for number, path in enumerate(kinds.values(), 1):
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(fingerprint(root, PIPELINE, package))
        assert len(seen) == 1 + number, path
    (package / "stream" / "another.sql").write_text("SELECT 1")
    seen.add(fingerprint(root, PIPELINE, package))
    assert len(seen) == 2 + len(kinds)


def test_byte_code_is_no_change(root, package):
    before = fingerprint(root, PIPELINE, package)
    (package / "stream" / "__pycache__").mkdir()
    (package / "stream" / "__pycache__" / "ubi.cpython-311.pyc").write_bytes(b"0")
    assert fingerprint(root, PIPELINE, package) == before


def test_settings_and_inputs_are_a_change(root, package):
    seen = {fingerprint(root, PIPELINE, package)}
    for name in ("params.yaml", "log.dvc"):
        (root / name).write_text("changed: 1\n")
        seen.add(fingerprint(root, PIPELINE, package))
    assert len(seen) == 3
