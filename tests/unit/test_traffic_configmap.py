"""Traffic in a ConfigMap that the transformers mount, on an API server that fails like one; and a rollout on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cluster
import pytest
import yaml

from serm.errors import UserError
from serm.rollout import controller, traffic
from serm.rollout.traffic import Conflict
from serm.settings.rollout import RolloutSettings

PATH = "/api/v1/namespaces/search/configmaps/serm-experiment"
EXPERIMENT = {"name": "none", "percent": 0, "layer": "ranking"}


@pytest.fixture
def cluster(cluster: fake_cluster.FakeCluster) -> fake_cluster.FakeCluster:
    put(cluster, yaml.safe_dump(EXPERIMENT))
    return cluster


def put(cluster: fake_cluster.FakeCluster, text: str) -> None:
    data = {"experiment.yaml": text, "other": "stays"}
    cluster.put(PATH, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "serm-experiment"}, "data": data})


@pytest.fixture
def made(cluster: fake_cluster.FakeCluster, tmp_path: Path) -> Iterator[traffic.Traffic]:
    (tmp_path / "token").write_text(fake_cluster.TOKEN)
    options = {
        "server": cluster.url,
        "token_file": str(tmp_path / "token"),
        "timeout_seconds": 0.3,
        "retry_seconds": 0.01,
    }
    with traffic.connect("configmap", options, "search", "relevance") as connected:
        yield connected


def content(cluster: fake_cluster.FakeCluster) -> Any:
    assert cluster.objects[PATH]["data"]["other"] == "stays"
    return yaml.safe_load(cluster.objects[PATH]["data"]["experiment.yaml"])


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [None, None, 503, 429],
        [None, None, "silent"],
        [None, None, ("done", 504)],
        [None, None, "meddle"],
        [500, 502, None],
    ],
    ids=str,
)
def test_a_share_is_set_once_whatever_the_server_does_and_all_else_stays(
    made: traffic.Traffic, cluster: fake_cluster.FakeCluster, faults: list[Any]
) -> None:
    cluster.faults = list(faults)
    assert made.set("cycle-0003", 25, made.read()).percent == 25
    assert content(cluster) == {**EXPERIMENT, "name": "cycle-0003", "percent": 25}
    then = made.read()
    assert (then.experiment, then.percent) == ("cycle-0003", 25)


def test_of_two_controllers_one_is_told_of_the_other(made: traffic.Traffic, cluster: fake_cluster.FakeCluster) -> None:
    seen = made.read()
    made.set("cycle-0003", 10, seen)
    with pytest.raises(Conflict, match="the challenger has 10 % of 'cycle-0003', where 0 % of 'none' was read"):
        made.set("cycle-0004", 25, seen)
    assert content(cluster)["name"] == "cycle-0003"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "mend it"),
        ("a text", "holds no experiment"),
        ("{name: x, percent: 1.5}", "no whole percentage"),
        ("{name: x, percent: yes}", "no whole percentage"),
        ("{name: x, percent: 101}", "no whole percentage"),
    ],
)
def test_a_file_that_is_no_experiment_is_an_error(
    made: traffic.Traffic, cluster: fake_cluster.FakeCluster, text: str, told: str
) -> None:
    put(cluster, text)
    with pytest.raises(UserError, match=told):
        made.read()


def test_interleaved_pages_are_no_rollout_and_can_be_taken_back(
    made: traffic.Traffic, cluster: fake_cluster.FakeCluster, tmp_path: Path
) -> None:
    put(cluster, "{name: cycle-0003, percent: 5, interleave: true}")
    with pytest.raises(UserError, match="interleave is true"):
        made.set("cycle-0003", 10, made.read())
    assert made.set("cycle-0003", 0, made.read()).percent == 0
    with pytest.raises(UserError, match="interleave is true"):
        controller.start(tmp_path, "cycle-0004", RolloutSettings(), made)
    assert not list(tmp_path.glob("*.json"))


def test_a_rollout_starts_is_killed_at_a_conflict_and_ends_on_the_cluster(
    made: traffic.Traffic, cluster: fake_cluster.FakeCluster, tmp_path: Path
) -> None:
    settings = RolloutSettings(traffic="configmap", steps=(5, 50))
    cluster.faults = [503, 503, 503, 503]
    with pytest.raises(UserError, match="no answer in 4 attempts"):
        controller.start(tmp_path, "cycle-0003", settings, made)
    assert content(cluster) == EXPERIMENT
    record = controller.start(tmp_path, "cycle-0003", settings, made)
    assert (record.outcome, record.percent) == ("running", 5)
    assert content(cluster) == {**EXPERIMENT, "name": "cycle-0003", "percent": 5}
    cluster.faults = [None, None, 409, None, 409]  # somebody else writes between its reads and its patches
    record = controller.abort(tmp_path, "cycle-0003", "seen enough", made)
    assert record.percent == 0
    assert content(cluster)["percent"] == 0
