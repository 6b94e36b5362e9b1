"""KServe's storage initializer: a model's files come from a git server over HTTP and a DVC remote, or nothing does."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_servers import Server

from serm.errors import UserError
from serm.layout import CHAMPION, SETUP
from serm.local_server import LocalServer
from serm.serving import storage
from serm.workspace.store import Workspace

MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "lm/part": b"one more"}

IMPORTED = """
frozen: true
deps:
- path: state/champion
  repo: {{url: "{root}/workspace", rev_lock: local-remote}}
outs:
- {{path: imported, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    Server.root, Server.asked = root, []
    server = LocalServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    address = f"http://127.0.0.1:{server.server_port}"
    workspace = Workspace.create(root / "workspace", root / "remote")
    for path in (workspace.path / CHAMPION, workspace.path / "state" / "other"):
        for name, data in MODEL.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data + path.name.encode())
    workspace.track(CHAMPION, Path("state/other"))
    workspace.dvc("push")
    (workspace.path / "state" / "plain").mkdir()
    (workspace.path / "state" / "plain" / "note").write_text("in git")
    paths = [*SETUP, *workspace.pointers(CHAMPION, Path("state/other")), "state/plain/note"]
    workspace.commit("local", paths)
    workspace.git("tag", "local-remote")
    config = workspace.path / ".dvc" / "config"
    config.write_text(config.read_text().replace(str(root / "remote"), f"{address}/remote"))
    workspace.commit("cycle", paths)
    workspace.git("tag", "cycle-0001")
    workspace.git("tag", "search/cycle-0001")  # of the workspace `search` in a repository of several
    (workspace.path / "state" / "imported.dvc").write_text(IMPORTED.format(root=root))
    workspace.commit("imported", [*paths, "state/imported.dvc"])
    workspace.git("tag", "imported")
    workspace.git("clone", "--quiet", "--bare", str(workspace.path), str(root / "git" / "shop.git"))
    yield f"{address}/git/shop.git"
    server.shutdown()


def test_the_files_of_the_path_come_and_no_other_object_is_asked_for(server: str, tmp_path: Path) -> None:
    Server.asked.clear()
    (tmp_path / "models").mkdir()
    storage.fetch(f"dvc://{server}@cycle-0001/state/champion", tmp_path / "models")
    found = {
        str(file.relative_to(tmp_path / "models")): file.read_bytes()
        for file in (tmp_path / "models").rglob("*")
        if file.is_file()
    }
    assert found == {name: data + b"champion" for name, data in MODEL.items()}
    objects = {path for path in Server.asked if path.startswith("/remote/files")}
    assert len(objects) == 1 + len(MODEL)  # the directory's list, and its files
    left = tmp_path / "models" / ".unfinished-x"  # as a killed initializer leaves it
    left.mkdir()
    storage.fetch(f"dvc://{server}@cycle-0001/state/other", tmp_path / "models")  # a pod's second start
    assert (tmp_path / "models" / "lm" / "part").read_bytes() == MODEL["lm/part"] + b"other"
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(
        {name.split("/")[0] for name in MODEL}
    )
    storage.fetch(
        "dvc://cycle-0001/state/plain", tmp_path / "plain", repository=server
    )  # as serving.storage_uri has it
    assert [file.read_text() for file in (tmp_path / "plain").iterdir()] == ["in git"]


def test_a_tag_with_a_workspaces_name_is_written_with_its_slash_encoded(server: str, tmp_path: Path) -> None:
    storage.fetch(f"dvc://{server}@search%2Fcycle-0001/state/champion", tmp_path / "models")
    assert (tmp_path / "models" / "lm" / "part").read_bytes() == MODEL["lm/part"] + b"champion"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("dvc://{server}@cycle-0009/state/champion", "its tag cycle-0009 cannot be cloned"),
        ("dvc://{server}x@cycle-0001/state/champion", "cannot be cloned"),
        ("dvc://{server}@cycle-0001/state/nobody", "the tag has no directory state/nobody"),
        ("dvc://{server}@local-remote/state/champion", "its DVC remote .* is reached by 'a path'"),
        ("dvc://{server}@imported/state/imported", "state/imported is imported from elsewhere"),
        ("dvc://{server}@imported/state", "state/imported is imported from elsewhere"),
        ("dvc://{server}@imported/state/imported/lm", "state/imported is imported from elsewhere"),
        ("dvc://{server}@cycle-0001/state/../x", "each part a plain name"),
        ("dvc://{server}@--upload-pack=x/state", "each part a plain name"),
        ("dvc://{server}@search%2F..%2Fx/state", "each part a plain name"),
        ("dvc://{server}@%2Fcycle-0001/state", "each part a plain name"),
        ("dvc://ssh://git@host/shop@cycle-0001/state", "each part a plain name"),
        ("dvc://ext::sh -c id@cycle-0001/state", "each part a plain name"),
        ("dvc://file:///etc@cycle-0001/state", "each part a plain name"),
        ("dvc://https://user:secret@host/shop@cycle-0001/state", "each part a plain name"),
        ("dvc://cycle-0001/state/champion", "SERM_REPOSITORY is not set"),
        ("hf://acme/model", "expected dvc://"),
        ("s3://bucket/model", "expected dvc://"),
    ],
)
def test_what_is_not_there_or_could_lead_elsewhere_is_refused(server: str, tmp_path: Path, uri: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        storage.fetch(uri.format(server=server), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_object_that_was_changed_or_is_gone_leaves_nothing(server: str, root: Path, tmp_path: Path) -> None:
    objects = [file for file in (root / "remote").rglob("*") if file.is_file()]
    (weights,) = (file for file in objects if file.read_bytes() == b"weightschampion")
    kept = shutil.copy(weights, tmp_path / "kept")
    weights.chmod(0o644)
    weights.write_bytes(b"weightschampiox")
    try:
        with pytest.raises(UserError, match="has not the hash that the tag pins"):
            storage.fetch(f"dvc://{server}@cycle-0001/state/champion", tmp_path / "models")
        weights.unlink()
        with pytest.raises(UserError, match="cannot be had through DVC"):
            storage.fetch(f"dvc://{server}@cycle-0001/state/champion", tmp_path / "models")
    finally:
        shutil.copy(kept, weights)
    assert not (tmp_path / "models").exists()
