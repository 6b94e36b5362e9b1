"""git as the user left it: what SERM commits is its own, on a branch, and what it refuses leaves no trace."""

import shutil
import subprocess
import sys

import pytest
from workspace_world import fill, next_cycle, outputs, params, run_steps, tree

from serm.errors import UserError
from serm.relevance import location
from serm.workspace import history, runner
from serm.workspace.advance import advance
from serm.workspace.publish import publish
from serm.workspace.record import record
from serm.workspace.store import Workspace


def everything(workspace):
    """All that a refused command must leave as it was: files, staged entries, commits, tags."""
    files = {
        name: digest
        for name, digest in tree(workspace.path).items()
        if not name.startswith((".git/", ".dvc/", ".serm/"))
    }
    return (
        files,
        workspace.git("ls-files", "--stage"),
        workspace.git("rev-parse", "HEAD"),
        workspace.git("for-each-ref"),
    )


def stage_own_files(workspace):
    """Stage two files of the user's, one of them with a later edit that is not staged."""
    (workspace.path / "secret.env").write_text("KEY=1\n")
    (workspace.path / "app.py").write_text("one = 1\n")
    workspace.git("add", "secret.env", "app.py")
    (workspace.path / "app.py").write_text("two = 2\n")
    return workspace.git("diff", "--cached"), workspace.git("diff")


def test_what_the_user_staged_is_in_no_commit_of_serm_and_stays_staged(workspace):
    root = workspace.path
    before = stage_own_files(workspace)
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    assert (workspace.git("diff", "--cached"), workspace.git("diff")) == before
    advance(root, params(workspace))
    assert (workspace.git("diff", "--cached"), workspace.git("diff")) == before
    committed = workspace.git("log", "--format=", "--name-only", "--all").split()
    assert {"secret.env", "app.py"}.isdisjoint(committed)
    assert {"dvc.lock", "state.json", "cycle/model_card.md"} <= set(committed)


def test_a_refused_publish_or_record_changes_nothing(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    stage_own_files(workspace)
    run_steps(root, result="failed", weights=b"other")
    (root / "cycle/drift/drift.json").write_text('{"decision": "quiet", "reasons": []}')
    before = everything(workspace)
    with pytest.raises(UserError, match="exists already and cycle/drift, cycle/train, cycle/evaluate differ"):
        publish(root, outputs(workspace), params(workspace))
    with pytest.raises(UserError, match="cycle-0001 exists already and cycle/drift differ"):
        record(root, outputs(workspace), params(workspace))
    assert everything(workspace) == before
    (root / "cycle/mine/mine.json").unlink()
    next_cycle(workspace)
    before = everything(workspace)
    with pytest.raises(UserError, match=r"mine\.json: cannot be read .* run `serm mine` again"):
        publish(root, outputs(workspace), params(workspace))
    with pytest.raises(UserError, match="cycle-0002 is not published"):
        advance(root, params(workspace))
    assert everything(workspace) == before


def test_a_commit_on_no_branch_is_refused_before_any_work(workspace):
    root = workspace.path
    run_steps(root)
    workspace.git("checkout", "--quiet", "--detach")
    before = everything(workspace)
    for command in (
        lambda: publish(root, outputs(workspace), params(workspace)),
        lambda: record(root, outputs(workspace), params(workspace)),
        lambda: advance(root, params(workspace)),
        lambda: runner.run_cycle(root),
    ):
        with pytest.raises(UserError, match=r"HEAD is detached.*`git switch main`"):
            command()
    assert everything(workspace) == before


def test_a_tag_that_the_remote_alone_has_is_refused_before_any_work(workspace):
    root = workspace.path
    with (root / "params.yaml").open("a") as file:
        file.write("publish: {push: true}\n")
    workspace.commit("Push", ["params.yaml"])
    origin = root.parent / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", root, origin], check=True)
    other = workspace.git("commit-tree", "-m", "another publisher's", "HEAD^{tree}")
    workspace.git("push", "--quiet", str(origin), f"{other}:refs/tags/cycle-0001")
    workspace.git("remote", "add", "origin", str(origin))
    run_steps(root)
    before = everything(workspace)
    for command in (lambda: publish(root, outputs(workspace), params(workspace)), lambda: runner.run_cycle(root)):
        with pytest.raises(UserError, match=r"origin has the tag cycle-0001 already, .*; another publisher was first"):
            command()
    assert everything(workspace) == before


def test_a_merge_that_is_not_ended_is_refused_before_any_work(workspace):
    root = workspace.path
    workspace.git("switch", "--quiet", "--create", "other")
    workspace.commit("empty", [])
    (root / "notes").write_text("a")
    workspace.commit("notes", ["notes"])
    workspace.git("switch", "--quiet", "main")
    workspace.git("merge", "--quiet", "--no-ff", "--no-commit", "other")
    run_steps(root)
    before = everything(workspace)
    with pytest.raises(UserError, match="in the middle of a merge"):
        publish(root, outputs(workspace), params(workspace))
    assert everything(workspace) == before


def test_git_without_a_name_is_refused_before_any_work(workspace, monkeypatch):
    workspace.git("config", "user.useConfigOnly", "true")
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", "--unset", name], cwd=workspace.path, check=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    run_steps(workspace.path)
    with pytest.raises(UserError, match="git does not know who commits"):
        publish(workspace.path, outputs(workspace), params(workspace))
    assert not (workspace.path / "history").exists()


@pytest.mark.parametrize("name", ["my shop", "shop[1]", "shop~"])
def test_a_directory_that_no_tag_can_name_is_refused_before_any_work(name, tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / name / ".dvc").mkdir(parents=True)
    with pytest.raises(UserError, match=r"git allows no tag .* give the directory a name"):
        Workspace(tmp_path / name).require_branch()


def test_a_push_that_fails_tells_dvcs_reason_and_is_made_up_for_by_the_next_publish(workspace, tmp_path):
    root = workspace.path
    (tmp_path / "store").write_text("a file where the remote's directory should be")
    run_steps(root)
    with pytest.raises(UserError, match=r"`dvc push` failed: .*(Not a directory|File exists)"):
        publish(root, outputs(workspace), params(workspace))
    (tmp_path / "store").unlink()
    publish(root, outputs(workspace), params(workspace))
    assert any((tmp_path / "store").rglob("*.dir"))


def test_dvc_tells_why_it_cannot_take_an_input(workspace):
    shutil.rmtree(workspace.path / "log")
    with pytest.raises(UserError, match=r"`dvc add log .* failed: .*'log'"):
        runner.run_cycle(workspace.path)


def test_two_workspaces_in_one_repository_publish_and_advance(tmp_path, monkeypatch):
    top = tmp_path / "company"
    top.mkdir()
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@t"],
    ):
        subprocess.run(["git", *command], cwd=top, check=True)
    for name in ("search", "ads"):
        (top / name).mkdir()
        subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--subdir"], cwd=top / name, check=True)
        workspace = Workspace(top / name)
        fill(workspace)
        run_steps(workspace.path, weights=name.encode())
        published = publish(workspace.path, outputs(workspace), params(workspace))
        assert published["tag"] == f"{name}/cycle-0001"
        advance(workspace.path, params(workspace))
        assert (workspace.path / "state/champion/model.safetensors").read_bytes() == name.encode()
    assert workspace.git("tag", "--list", "*/cycle-*").split() == ["ads/cycle-0001", "search/cycle-0001"]
    assert workspace.git("status", "--porcelain") == ""
    for name in ("search", "ads"):
        (cycle,) = history.read_cycles(top / name)
        assert cycle.settings is not None
        Workspace(top / name).get("cycle-0001", "cycle/train/model", tmp_path / name)
        assert (tmp_path / name / "model.safetensors").read_bytes() == name.encode()
        monkeypatch.chdir(top / name)
        model = location.local("dvc://cycle-0001/cycle/train/model")  # as serving's storage URI has it
        assert (model / "model.safetensors").read_bytes() == name.encode()
