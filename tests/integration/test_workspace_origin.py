"""A cycle published to a git repository somewhere else: objects first, then branch and tags at once, or nothing."""

import json
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack

import git_servers
import object_store
import pytest
import yaml
from workspace_world import copy, outputs, params, run_steps, tree

from serm.errors import UserError
from serm.layout import STATE
from serm.serving import storage
from serm.steps import STEPS
from serm.workspace import origin
from serm.workspace.begin import begin
from serm.workspace.clone import is_url
from serm.workspace.publish import publish
from serm.workspace.store import Workspace, run


def git(path, *arguments):
    return run(["git", *arguments], path)


def bare(workspace, path):
    """Make a repository that others clone, and push the workspace's objects to DVC's remote."""
    workspace.dvc("push")
    git(workspace.path, "clone", "--quiet", "--bare", str(workspace.path), str(path))
    return f"file://{path}"


def refs(path):
    return set(git(path, "for-each-ref", "--format=%(refname)").split())


ALL = {"refs/heads/main", "refs/tags/cycle-0001", "refs/tags/relevance@v1.0.0"}


@pytest.fixture(scope="module")
def made(template, tmp_path_factory):
    """A workspace whose cycle has run and is not published, its outputs aside as a pipeline has them, its origin."""
    directory = tmp_path_factory.mktemp("origin")
    workspace = copy(template, directory)
    begin(workspace.path, params(workspace))
    workspace.track(*STATE)
    workspace.commit("The state that the cycle reads", workspace.pointers(*STATE))
    url = bare(workspace, directory / "origin.git")
    run_steps(workspace.path)
    given = {step: directory / "artifacts" / step for step in STEPS}
    shutil.copytree(workspace.path / "cycle", directory / "artifacts")
    return workspace, url, given, params(workspace)


@pytest.fixture
def repository(made, tmp_path):
    """An origin of one's own."""
    shutil.copytree(made[1].removeprefix("file://"), tmp_path / "origin.git")
    return f"file://{tmp_path / 'origin.git'}"


def test_a_clone_pins_what_a_workspace_pins_and_the_tag_brings_the_bytes_back(made, repository, tmp_path):
    workspace, _, given, settings = made
    told = publish(repository, given, settings)
    path = tmp_path / "origin.git"
    assert refs(path) == ALL
    assert git(path, "rev-parse", "main", "cycle-0001^{commit}").split() == [told["commit"]] * 2
    assert publish(repository, given, settings)["commit"] == told["commit"]
    here = copy(workspace, tmp_path)
    publish(here.path, outputs(here), settings)
    locks = [yaml.safe_load(git(one, "show", "cycle-0001:dvc.lock")) for one in (path, here.path)]
    assert locks[0] == locks[1]
    cards = [git(one, "show", "cycle-0001:cycle/model_card.md") for one in (path, here.path)]
    assert cards[0] == cards[1]
    git(tmp_path, "clone", "--quiet", "--branch=cycle-0001", repository, "clone")
    Workspace(tmp_path / "clone").dvc("pull", "train")
    assert tree(tmp_path / "clone/cycle/train") == tree(given["train"])


def test_a_publisher_that_is_overtaken_commits_anew_and_a_second_cycle_of_that_name_is_refused(
    made, repository, tmp_path, monkeypatch
):
    _, _, given, settings = made
    push, others = origin.push, []

    def overtaken(workspace, options, tags=()):
        if not others:  # somebody else pushes first
            git(tmp_path, "clone", "--quiet", repository, "other")
            other = tmp_path / "other"
            others.append(git(other, "commit", "--quiet", "--allow-empty", "--message=Other") or other)
            git(other, "push", "--quiet", "origin", "main")
        push(workspace, options, tags)

    monkeypatch.setattr("serm.workspace.publish.push", overtaken)
    publish(repository, given, settings)
    assert git(tmp_path / "origin.git", "log", "--format=%s", "-2", "main").splitlines() == [
        "cycle-0001: the challenger passed the gate",
        "Other",
    ]
    before = git(tmp_path / "origin.git", "for-each-ref")
    shutil.copytree(given["train"], tmp_path / "train")
    (tmp_path / "train/model/model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match=r"cycle-0001 exists already and cycle/train differ"):
        publish(repository, given | {"train": tmp_path / "train"}, settings)
    assert git(tmp_path / "origin.git", "for-each-ref") == before


#: Kills itself before the n-th git or DVC command, rename or exchange.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from serm import settings
from serm.errors import UserError
from serm.workspace.publish import publish

url, params, given, at = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
loaded, count = settings.load(params), 0

def kill(event, arguments):
    global count
    if event in ("os.rename", "ctypes.dlopen", "subprocess.Popen"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
try:
    publish(url, {name: Path(path) for name, path in given.items()}, loaded)
except UserError as error:
    sys.exit(f"Error: {error}")
print(count)
"""


@pytest.mark.parametrize("transport", ["http", "ssh"])
def test_a_cycle_is_published_over_http_and_over_ssh(transport, made, tmp_path, monkeypatch):
    _, url, given, settings = made
    path = tmp_path / "git" / "shop.git"
    shutil.copytree(url.removeprefix("file://"), path)
    git(path, "config", "http.receivepack", "true")
    with ExitStack() as servers:
        if transport == "http":
            address = servers.enter_context(git_servers.over_http(tmp_path)) + "/git/shop.git"
        else:
            address, command = servers.enter_context(git_servers.over_ssh(tmp_path))
            address += str(path)
            monkeypatch.setenv("GIT_SSH_COMMAND", command)
        publish(address, given, settings)
    assert refs(path) == ALL
    with pytest.raises(UserError, match=r"`git .*clone.*` failed: .*(refused|connect|reset|read from remote)"):
        publish(address, given, settings)


def test_s3_holds_the_objects_of_what_is_published_and_a_pod_fetches_its_model_from_there(made, tmp_path):
    workspace, _, given, settings = made
    with object_store.over_s3() as endpoint, git_servers.over_http(tmp_path) as address:
        here = copy(workspace, tmp_path)
        here.dvc("remote", "modify", "store", "url", f"s3://{object_store.BUCKET}/dvc")
        here.dvc("remote", "modify", "store", "endpointurl", endpoint)
        here.commit("The remote is in S3", [".dvc/config"])
        bare(here, path := tmp_path / "git" / "shop.git")
        git(path, "config", "http.receivepack", "true")
        publish(f"{address}/git/shop.git", given, settings)
        assert refs(path) == ALL
        storage.fetch(f"dvc://{address}/git/shop.git@cycle-0001/cycle/train/model", tmp_path / "model")
        assert tree(tmp_path / "model") == tree(given["train"] / "model")
        git(path, "update-ref", "-d", "refs/tags/cycle-0001")
        git(path, "update-ref", "refs/heads/main", "main~1")
        before = refs(path)
    with git_servers.over_http(tmp_path) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.KEYS.items():
            patch.setenv(name, value)
        with pytest.raises(UserError, match=r"`dvc .*push.*` failed: .*(connect|endpoint)"):
            publish(f"{address}/git/shop.git", given, settings)
        assert refs(path) == before


@pytest.fixture
def publishing(made):
    """Publish in a process of its own, which dies before its command number ``at``, or can write no file that large."""
    workspace, _, given, _ = made
    given = json.dumps({name: str(path) for name, path in given.items()})

    def start(repository, at=0, largest=None):
        limit = None if largest is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        command = [sys.executable, "-c", KILLED, repository, str(workspace.path / "params.yaml"), given, str(at)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, preexec_fn=limit)

    return start


@pytest.mark.parametrize("back", [1, 3])
def test_a_publisher_that_is_killed_leaves_all_or_nothing_in_the_repository(back, publishing, repository, tmp_path):
    """Counted from the end: before the push, and before the tag."""
    whole = repository + ".whole"
    shutil.copytree(repository.removeprefix("file://"), whole.removeprefix("file://"))
    changes = int(publishing(whole).stdout.split()[-1])
    assert publishing(repository, changes - back).returncode == -9
    assert refs(tmp_path / "origin.git") in ({"refs/heads/main"}, ALL)
    assert publishing(repository).returncode == 0
    assert refs(tmp_path / "origin.git") == ALL


@pytest.mark.parametrize("largest", [3000, 30_000])
def test_a_publisher_whose_disk_is_full_leaves_nothing_and_says_so(largest, publishing, repository, tmp_path):
    done = publishing(repository, largest=largest)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.strip().count("\n") == 0
    assert any(said in done.stderr for said in ("SIGXFSZ", "File too large", "disk I/O error", "disk is full"))
    assert refs(tmp_path / "origin.git") == {"refs/heads/main"}
    assert publishing(repository).returncode == 0
    assert refs(tmp_path / "origin.git") == ALL


@pytest.mark.parametrize(
    ("repository", "url"),
    [
        ("https://git.example.org/search.git", True),
        ("ssh://git@git.example.org/search.git", True),
        ("git@git.example.org:team/search.git", True),
        ("/work/search", False),
        ("search", False),
    ],
)
def test_a_git_url_is_told_from_a_path(repository, url):
    assert is_url(repository) is url


@pytest.mark.parametrize(
    "repository", ["https://me:s3cret@host/shop.git", "https://token@host/shop", "ext::sh -c id://x"]
)
def test_credentials_and_other_transports_are_refused_without_being_shown(repository):
    with pytest.raises(UserError) as told:
        is_url(repository)
    assert "s3cret" not in str(told.value)
    assert "token@" not in str(told.value)
