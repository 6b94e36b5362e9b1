"""advance takes what the cycle's tag pins, whatever lies in the workspace by then."""

import json
import shutil

import pytest
from workspace_world import copy, make, outputs, params, run_steps

from serm import contracts
from serm.errors import UserError
from serm.layout import READ
from serm.workspace.advance import advance
from serm.workspace.pins import digest, pinned
from serm.workspace.publish import publish
from serm.workspace.store import Workspace


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A workspace whose cycle passed the gate and one whose cycle failed it, both published."""
    made = {}
    for result in ("passed", "failed"):
        directory = tmp_path_factory.mktemp(result)
        made[result] = make(directory / "shop", directory / "store")
        run_steps(made[result].path, result=result)
        (made[result].path / "cycle/train/ünï “x”\n.txt").write_text("an odd name")
        publish(made[result].path, outputs(made[result]), params(made[result]))
    return made


def test_the_hash_of_a_directory_is_dvcs(templates):
    workspace = templates["passed"]
    pins = pinned(workspace, "cycle-0001")
    assert pins == {f"cycle/{step}": digest(path) for step, path in outputs(workspace).items()} | {
        str(path): digest(workspace.path / path) for path in READ
    }


def test_a_model_that_was_trained_after_publish_does_not_become_the_champion(templates, tmp_path):
    workspace = copy(templates["passed"], tmp_path)
    root = workspace.path
    run_steps(root, weights=b"never evaluated")
    workspace.dvc("commit", "--force")
    assert advance(root, params(workspace))["champion"] == "promoted"
    assert (root / "state/champion/model.safetensors").read_bytes() == b"challenger"


def test_the_gates_result_is_the_tags(templates, tmp_path):
    workspace = copy(templates["failed"], tmp_path)
    root = workspace.path
    for path in (root / "history/cycle-0001/evaluate.json", root / "cycle/evaluate/evaluate.json"):
        found = json.loads(path.read_text())
        found["gate"]["result"] = "passed"
        path.write_text(json.dumps(found))
    assert advance(root, params(workspace))["champion"] == "kept"
    assert (root / "state/champion/model.safetensors").read_bytes() == b"champion"
    assert "history/cycle-0001/evaluate.json" not in workspace.git("show", "--format=", "--name-only").split()


def test_a_lost_cycle_directory_comes_out_of_the_cache(templates, tmp_path):
    workspace = copy(templates["passed"], tmp_path)
    shutil.rmtree(workspace.path / "cycle")
    assert advance(workspace.path, params(workspace))["champion"] == "promoted"


def test_bytes_that_changed_in_the_cache_are_refused(templates, tmp_path):
    workspace = copy(templates["passed"], tmp_path)
    root = workspace.path
    (held,) = (
        path for path in (root / ".dvc/cache/files").rglob("*") if path.is_file() and path.read_bytes() == b"challenger"
    )
    held.chmod(0o644)
    held.write_bytes(b"Challenger")
    with pytest.raises(UserError, match="not the bytes that the tag pins"):
        advance(root, params(workspace))
    assert (root / "state/champion/model.safetensors").read_bytes() == b"champion"
    held.unlink()  # as the sentence says
    shutil.rmtree(root / "cycle/train")
    with pytest.raises(UserError, match=r"`dvc fetch train` failed: .+|neither DVC's cache nor its remote"):
        advance(root, params(workspace))


def test_a_state_without_its_judgments_is_not_taken_for_an_empty_one(templates, tmp_path):
    workspace = copy(templates["passed"], tmp_path)
    root = workspace.path
    shutil.rmtree(root / "state/judgments")
    with pytest.raises(UserError, match=r"state/judgments: not there; `dvc checkout state/judgments` brings it back"):
        advance(root, params(workspace))
    workspace.dvc("checkout", "state/judgments")
    (root / "state/judgments").rename(root / "state/.judgments.aside")  # as a write that was killed leaves it
    advance(root, params(workspace))
    judged = contracts.read(root / "state/judgments", contracts.JUDGMENTS)
    assert judged["query"].to_pylist() == ["cat", "fox"]


def test_a_clone_advances_with_what_the_remote_has(templates, tmp_path):
    origin = templates["passed"].path
    clone = tmp_path / "clone"
    templates["passed"].git("clone", "--quiet", str(origin), str(clone))
    workspace = Workspace(clone)
    workspace.git("config", "user.name", "t")
    workspace.git("config", "user.email", "t@t")
    workspace.dvc(
        "pull", *(f"state/{name}.dvc" for name in ("champion", "judgments", "reference", "profiles", "windows"))
    )
    assert advance(clone, params(workspace))["champion"] == "promoted"
    judged = contracts.read(clone / "state/judgments", contracts.JUDGMENTS)
    assert judged["query"].to_pylist() == ["cat", "fox"]
