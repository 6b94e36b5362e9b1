"""A run on a cluster begins from a clone of the repository, and pushes the state that is past its cycle."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pytest
from fake_model_registry import fake_model_registry
from file_traffic import FileTraffic, write_log
from workspace_world import fill, impressions, outputs, run_steps, tree

from serm import contracts, report, settings
from serm.errors import UserError
from serm.kubeflow.report import fetch_report, leave_report
from serm.kubeflow.repository import checkout, go_past, opened, ramp
from serm.monitoring import model_registry
from serm.rollout import controller, traffic
from serm.steps import GIVEN
from serm.workspace.clone import is_url
from serm.workspace.publish import publish
from serm.workspace.store import Workspace

WINDOW = 'number: 1\n  start: "2017-01-01T00:00:00Z"\n  end: "2017-04-01T00:00:00Z"\n  every: 60\n'


@pytest.fixture
def shop(workspace):
    """A workspace whose log ends on 2017-05-01, pushed to a bare repository, DVC's bytes to its remote."""
    root = workspace.path
    shutil.rmtree(root / "log")
    contracts.write(impressions("fox"), root / "log", contracts.IMPRESSIONS)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(re.sub(r"(?s)number: .*?(?=\n\w)", WINDOW.rstrip(), text, count=1))
    workspace.track("log")
    workspace.commit("A log that ends in May", ["log.dvc", "params.yaml"])
    workspace.dvc("push", "--quiet")
    origin = root.parent / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", root, origin], check=True)
    workspace.git("remote", "add", "origin", f"file://{origin}")
    return workspace


@pytest.fixture
def url(shop):
    return f"file://{shop.path.parent / 'origin.git'}"


def handed_out(directory):
    return {one.name: directory / one.name for one in GIVEN}


def test_a_cycle_from_a_url_reads_what_the_repository_pins_and_moves_its_state(shop, url, tmp_path):
    volume = tmp_path / "volume"
    text = checkout(url, volume, handed_out(tmp_path / "one"), early=False)
    assert text is not None
    assert settings.parse(text).cycle.name == "cycle-0001"
    for name, path in (("log", "log"), ("documents", "documents"), ("champion", "state/champion")):
        assert tree(tmp_path / "one" / name) == tree(shop.path / path), name
    run_steps(shop.path)
    assert publish(url, outputs(shop), settings.parse(text))["tag"] == "cycle-0001"
    assert go_past(url, volume, text)["champion"] == "promoted"
    # A month of the next window's sixty days is there; another run has another volume.
    early = checkout(url, tmp_path / "another", handed_out(tmp_path / "two"), early=True)
    assert early is not None
    cycle = settings.parse(early).cycle
    assert (cycle.number, f"{cycle.start:%m-%d} {cycle.end:%m-%d}") == (2, "04-01 05-01")
    assert (tmp_path / "two/champion/model.safetensors").read_bytes() == b"challenger"


@pytest.mark.parametrize("by", ["url", "path"])
def test_a_quiet_look_leaves_the_window_to_go_on(shop, url, tmp_path, by):
    repository = url if by == "url" else str(shop.path)
    before = shop.git("ls-remote", "origin"), shop.git("rev-parse", "HEAD:params.yaml")
    seen = []
    for day in (2, 5):
        row = impressions("fox").to_pylist()[0] | {"event_time": datetime(2017, 2, day, 7, 30, tzinfo=UTC)}
        contracts.write(pa.Table.from_pylist([row], contracts.IMPRESSIONS), shop.path / "log", contracts.IMPRESSIONS)
        shop.track("log")
        shop.commit(f"The log of {day} February", ["log.dvc"])
        shop.dvc("push", "--quiet")
        shop.git("push", "--quiet", "origin", "main")
        text = checkout(repository, tmp_path / f"volume-{day}", handed_out(tmp_path / f"given-{day}"), early=True)
        seen.append(f"{settings.parse(text).cycle.end:%m-%d %H}")
        shop.git("pull", "--quiet", "origin", "main")
    assert seen == ["02-02 07", "02-05 07"]
    assert settings.load(shop.path / "params.yaml").cycle.end.month == 4
    assert shop.git("rev-parse", "HEAD:params.yaml") == before[1]


def test_a_look_that_saw_drift_is_published_in_a_workspace_that_is_a_path(shop, tmp_path):
    row = impressions("fox").to_pylist()[0] | {"event_time": datetime(2017, 2, 5, 7, 30, tzinfo=UTC)}
    contracts.write(pa.Table.from_pylist([row], contracts.IMPRESSIONS), shop.path / "log", contracts.IMPRESSIONS)
    shop.track("log")
    text = checkout(str(shop.path), tmp_path / "volume", handed_out(tmp_path / "given"), early=True)
    run_steps(shop.path)
    given = {step: tmp_path / "artifacts" / step for step in outputs(shop)}
    shutil.copytree(shop.path / "cycle", tmp_path / "artifacts")
    publish(str(shop.path), given, settings.parse(text))
    assert f"{settings.load(shop.path / 'params.yaml').cycle.end:%m-%d %H}" == "02-05 07"
    go_past(str(shop.path), tmp_path / "volume", text)
    assert shop.dvc("status") == "Data and pipelines are up to date."


def test_a_champion_of_a_run_is_tagged_in_the_repository_and_a_killed_move_begins_anew(
    shop, url, tmp_path, monkeypatch
):
    volume = tmp_path / "volume"
    text = checkout(url, volume, handed_out(tmp_path / "one"), early=False)
    run_steps(shop.path)
    publish(url, outputs(shop), settings.parse(text))
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            go_past(url, volume, text)
    go_past(url, volume, text)
    assert "refs/tags/relevance#champion#1" in shop.git("ls-remote", "origin")
    again = opened(url, tmp_path / "another")
    assert (again.path / "state/champion/model.safetensors").read_bytes() == b"challenger"


def _killed(*_, **__):
    raise KeyboardInterrupt


def test_however_a_run_ends_it_leaves_a_page(shop, url, tmp_path, monkeypatch):
    leave_report(url, tmp_path / "volume", tmp_path / "page.html", "FAILED", "mine: <script>alert(1)</script>")
    page = (tmp_path / "page.html").read_text()
    assert "This run has ended: failed. mine: &lt;script&gt;" in page
    assert "no cycle to report on" in page
    assert "<script>" not in page
    leave_report("file:///nowhere.git", tmp_path / "other", tmp_path / "none.html", "RUNNING", "")
    assert "This run has ended; KFP does not say how. There is no report" in (tmp_path / "none.html").read_text()
    # Neither a full disk nor a fault of the report's own fails a run whose work is done.
    for fault in (OSError(28, "No space left on device"), KeyError("sets")):
        monkeypatch.setattr(report, "build", partial(_raise, fault))
        leave_report(str(shop.path), tmp_path / "volume", tmp_path / "odd.html", "SUCCEEDED", "")
        assert f"succeeded. There is no report: {type(fault).__name__}: " in (tmp_path / "odd.html").read_text()


def _raise(fault, *_):
    raise fault


def test_what_a_run_published_is_pulled_and_shown(shop, url, tmp_path, monkeypatch):
    subprocess.run(["git", "clone", "--quiet", url, tmp_path / "mine"], check=True)
    assert fetch_report(tmp_path / "mine") is None  # no cycle yet
    run_steps(shop.path)
    publish(url, outputs(shop), settings.load(shop.path / "params.yaml"))
    monkeypatch.setattr(report, "build", lambda root, out: out / "index.html")
    assert fetch_report(tmp_path / "mine") == tmp_path / "mine" / "report" / "index.html"
    assert Workspace(tmp_path / "mine").has_tag("cycle-0001")


def test_a_run_tells_the_model_registry_what_the_one_before_could_not(shop, url, tmp_path, monkeypatch):
    monkeypatch.setattr(model_registry, "PAUSE", 0.0)
    with (shop.path / "params.yaml").open("a") as file:
        file.write("publish: {model_registry: 'http://127.0.0.1:9'}\n")
    shop.commit("A registry", ["params.yaml"])
    shop.git("push", "--quiet", "origin", "main")
    text = checkout(url, tmp_path / "volume", handed_out(tmp_path / "one"), early=False)
    run_steps(shop.path)
    publish(url, outputs(shop), settings.parse(text))
    with pytest.raises(UserError, match="no answer of the Model Registry"):  # and the state waits
        checkout(url, tmp_path / "second", handed_out(tmp_path / "two"), early=False)
    with fake_model_registry() as registry:  # as the sentence says: the URL is mended, and the same command goes on
        shop.git("pull", "--quiet", "origin", "main")
        mended = (shop.path / "params.yaml").read_text().replace("http://127.0.0.1:9", registry.url)
        (shop.path / "params.yaml").write_text(mended)
        shop.commit("Where the registry is", ["params.yaml"])
        shop.git("push", "--quiet", "origin", "main")
        told = settings.parse(text.replace("http://127.0.0.1:9", registry.url))
        assert publish(url, outputs(shop), told)["tag"] == "cycle-0001"
        checkout(url, tmp_path / "third", handed_out(tmp_path / "three"), early=False)
        assert [one["name"] for one in registry.things["model_versions"]] == ["v1.0.0"]


def test_a_workspace_in_a_directory_on_a_branch_with_a_remote_of_the_run_goes_through_a_cycle(tmp_path):
    top, origin = tmp_path / "company", tmp_path / "origin.git"
    Workspace.create(top, tmp_path / "none")
    shutil.rmtree(top / ".dvc")
    (top / "search").mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--subdir"], cwd=top / "search", check=True)
    shop = Workspace(top / "search")
    shop.dvc("remote", "add", "--default", "store", "https://only.inside.example.org/dvc")
    fill(shop)
    shutil.rmtree(shop.path / "log")
    contracts.write(impressions("fox"), shop.path / "log", contracts.IMPRESSIONS)
    shop.track("log")
    with (shop.path / "params.yaml").open("a") as file:
        file.write(f"publish: {{branch: live, directory: search, dvc_remote: {tmp_path / 'store'}}}\n")
    shop.commit("All", ["."])
    shop.dvc("remote", "modify", "--local", "store", "url", str(tmp_path / "store"))
    shop.dvc("push", "--quiet")
    subprocess.run(["git", "clone", "--quiet", "--bare", top, origin], check=True)
    subprocess.run(["git", "branch", "--quiet", "live"], cwd=origin, check=True)
    url, volume, where = f"file://{origin}", tmp_path / "volume", {"branch": "live", "directory": "search"}
    for of, said in (({}, "no SERM workspace in its root"), ({"directory": "search"}, "the run's branch is main")):
        with pytest.raises(UserError, match=said):
            checkout(url, tmp_path / f"wrong-{len(of)}", handed_out(tmp_path / "wrong"), early=False, **of)
    text = checkout(url, volume, handed_out(tmp_path / "given"), early=False, **where)
    run_steps(shop.path)
    assert publish(url, outputs(shop), settings.parse(text))["tag"] == "search/cycle-0001"
    assert go_past(url, volume, text, **where)["champion"] == "promoted"
    for given in (where, {"settings": text}):
        leave_report(url, tmp_path / "report", tmp_path / "page.html", "SUCCEEDED", "", **given)
        assert "no SERM workspace" not in (tmp_path / "page.html").read_text()
    log = subprocess.run(["git", "log", "--format=%s", "main..live"], cwd=origin, capture_output=True, text=True)
    assert log.stdout.splitlines()[0] == "After cycle-0001: champion promoted"


def test_a_run_takes_a_rollout_a_step_on_and_pushes_its_record(shop, url, tmp_path, monkeypatch):
    users = FileTraffic(tmp_path / "traffic")
    monkeypatch.setattr(traffic, "connect", lambda *_: nullcontext(users))
    chosen = settings.RolloutSettings(steps=(10, 50), min_users=20, bake_hours=0, unwatched=("errors", "latency"))
    begun = datetime.now(UTC) - timedelta(days=1)
    controller.start(shop.path / "rollout", "cycle-0001", chosen, users, begun)
    shop.commit("A rollout", ["rollout/cycle-0001.json"])
    shop.git("push", "--quiet", "origin", "main")
    write_log(tmp_path / "joined", begun, 60)
    assert ramp(url, tmp_path / "volume", tmp_path / "joined") == {"outcome": "running", "percent": 50}
    assert users.seen == [0, 10, 50]
    shop.git("pull", "--quiet", "origin", "main")
    record = json.loads((shop.path / "rollout/cycle-0001.json").read_text())
    assert [one["percent"] for one in record["stages"]] == [10, 50]
    assert shop.git("log", "-1", "--format=%s") == "Rollout of cycle-0001: running, 50 %"


def test_a_password_in_a_url_is_refused_and_not_shown():
    with pytest.raises(UserError) as error:
        is_url("https://bot:hunter2@git.example.org/search.git")
    assert "hunter2" not in str(error.value)
    assert is_url("git@git.example.org:search.git")
    assert not is_url("/workspace/search")
