"""A challenger that passed is told to Kubeflow's Model Registry, once, however often and whatever fails on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import workspace_world
from fake_model_registry import FakeModelRegistry, fake_model_registry

from serm.errors import UserError
from serm.monitoring import model_registry, snapshots
from serm.monitoring.commit import publish
from serm.relevance.location import parts
from serm.workspace.store import Workspace

TOLD = ("relevance", "v1.0.0", "dvc://https://git.example.org/search@cycle-0001/cycle/train/model", {"dvc_tag": "x"})


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModelRegistry]:
    monkeypatch.delenv(model_registry.TOKEN, raising=False)
    with fake_model_registry() as fake:
        yield fake


def test_a_published_cycle_that_passed_is_registered_with_its_tag_and_where_its_model_lies(
    workspace: Workspace, registry: FakeModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "add", lambda *_: None)  # the steps' outputs are made up, and have no snapshot
    with (workspace.path / "params.yaml").open("a") as file:
        file.write(f"publish: {{model_registry: {registry.url!r}}}\n")
    workspace.git("remote", "add", "origin", "git@git.example.org:search.git")
    workspace_world.run_steps(workspace.path)
    given = workspace.path, workspace_world.outputs(workspace), workspace_world.params(workspace)
    figures = publish(*given)
    (model,), (version,), (files,) = registry.things.values()
    assert (model["name"], version["name"], figures["model_version_id"]) == ("relevance", "v1.0.0", version["id"])
    told = {name: one["string_value"] for name, one in version["customProperties"].items()}
    assert told == {
        "dvc_tag": "cycle-0001",
        "commit": figures["commit"],
        "cycle": "cycle-0001",
        "gate": "passed",
    }
    found = parts(files["uri"])  # nothing that KServe's initializer refuses: it takes https alone
    assert (found["repository"], found["tag"], found["path"]) == ("", "cycle-0001", "cycle/train/model")
    workspace.git("remote", "set-url", "origin", "https://git.example.org/search.git")
    registry.things["artifacts"].clear()
    publish(*given)
    found = parts(registry.things["artifacts"][0]["uri"])
    assert found["repository"] == "https://git.example.org/search.git"
    assert (found["tag"], found["path"]) == ("cycle-0001", "cycle/train/model")
    before = [list(of) for of in registry.things.values()]
    assert publish(*given)["model_version_id"] == figures["model_version_id"]
    assert list(registry.things.values()) == before


@pytest.mark.parametrize("fault", [503, "done, 503"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_registration_that_was_cut_short_is_ended_by_the_next(
    registry: FakeModelRegistry, fault: int | str, at: int
) -> None:
    registry.faults = [None] * at + [fault]
    with pytest.raises(UserError, match=r"did not do .* \(503: .*\); look at its logs"):
        model_registry.register(registry.url, *TOLD)
    made = model_registry.register(registry.url, *TOLD)
    assert [len(of) for of in registry.things.values()] == [1, 1, 1]
    assert made == registry.things["model_versions"][0]["id"]


def test_the_token_comes_from_the_environment(registry: FakeModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.token = "a-token"
    with pytest.raises(UserError, match=f"401.*set {model_registry.TOKEN} to a token"):
        model_registry.register(registry.url, *TOLD)
    monkeypatch.setenv(model_registry.TOKEN, "a-token")
    assert model_registry.register(registry.url, *TOLD)
    monkeypatch.setenv(model_registry.TOKEN, "a-\ntoken")
    with pytest.raises(UserError, match=f"{model_registry.TOKEN}: holds blanks, line ends") as error:
        model_registry.register(registry.url, *TOLD)
    assert "a-" not in str(error.value)


def test_a_registry_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "PAUSE", 0.0)
    with pytest.raises(UserError, match=r"no answer of the Model Registry.*publish\.model_registry is right"):
        model_registry.register("http://127.0.0.1:9", *TOLD)
