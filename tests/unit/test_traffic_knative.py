"""A challenger in KServe's Knative mode: its own host, none but its users, and no new pods as its share grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_cluster
import pytest
from cluster_manifests import the
from fake_kserve import Knative

from serm.rollout import traffic
from serm.rollout.traffic import NotReady
from serm.serving.manifests import inference_service
from serm.settings import Settings

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/search/inferenceservices/relevance"
MAP = "/api/v1/namespaces/search/configmaps/serm-experiment"


def challenger(number: int, percent: int = 0) -> dict[str, Any]:
    """What the deploy step writes."""
    window = {"number": number, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    return inference_service(Settings.model_validate({"cycle": window, "serving": {"mode": "knative"}}), percent)


def champion() -> dict[str, Any]:
    """The first model of all, as docs/install-on-a-cluster.md has it applied before a challenger."""
    found = challenger(1)
    del found["spec"]["predictor"]["canaryTrafficPercent"]
    return found


@pytest.fixture
def options(cluster: fake_cluster.FakeCluster, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "token").write_text(fake_cluster.TOKEN)
    return {"server": cluster.url, "token_file": str(tmp_path / "token")}


def test_the_transformer_s_two_hosts_lead_to_one_model_each_from_the_first_champion_to_the_next_ramp() -> None:
    made = the("knative", "InferenceService", "relevance")["spec"]
    assert made["predictor"]["canaryTrafficPercent"] == 0
    args = dict(one.split("=", 1) for one in made["transformer"]["containers"][0]["args"])
    assert "--champion" not in args  # KServe gives --predictor_host
    hosts = ["relevance-predictor.search", args["--challenger"].removeprefix("http://").split("/")[0]]
    knative = Knative()

    def lead() -> list[dict[str, int]]:
        return [knative.leads_to(host) for host in hosts]

    knative.reconcile(champion())
    assert lead() == [{"r1": 100}, {"r1": 100}]
    knative.reconcile(challenger(2), ready=False)
    assert lead() == [{"r1": 100}, {"r1": 100}]
    knative.status["latestReadyRevision"] = "r2"
    knative.reconcile(challenger(2))
    assert lead() == [{"r1": 100}, {"r2": 100}]
    knative.reconcile(challenger(2, 100))  # promoted
    assert lead() == [{"r2": 100}, {"r2": 100}]
    knative.reconcile(challenger(3))
    assert lead() == [{"r2": 100}, {"r3": 100}]


def test_a_share_that_changes_makes_no_new_revision(cluster: fake_cluster.FakeCluster, options: dict[str, Any]) -> None:
    """KServe gives the service's annotations to its pods: one that changes with the share starts them all anew."""
    knative = Knative()
    knative.reconcile(champion())
    cluster.put(SERVICE, knative.reconcile(challenger(2)))
    assert len(knative.revisions) == 2
    with traffic.connect("kserve", options, "search", "relevance") as made:
        for percent in (1, 50, 100, 0):
            assert made.set("cycle-0002", percent, made.read()).percent == percent
            knative.reconcile(cluster.objects[SERVICE])
            shares = {"r2": percent, "r1": 100 - percent}
            assert knative.leads_to("relevance-predictor.search") == {one: n for one, n in shares.items() if n}
    assert len(knative.revisions) == 2


@pytest.mark.parametrize("backend", ["kserve", "configmap"])
def test_a_challenger_whose_requests_another_revision_takes_is_not_ready(
    backend: str, cluster: fake_cluster.FakeCluster, options: dict[str, Any]
) -> None:
    cluster.put(MAP, {"data": {"experiment.yaml": "{name: cycle-0002, percent: 10}"}})
    knative = Knative()
    canary = {"canary": True} if backend == "configmap" else {}
    with traffic.connect(backend, {**options, **canary}, "search", "relevance") as made:
        knative.reconcile(champion())
        cluster.put(SERVICE, knative.reconcile(champion() | {"spec": challenger(1)["spec"]}))
        with pytest.raises(NotReady, match="'r1' is the champion's, so there is no challenger"):
            made.health()
        cluster.put(SERVICE, knative.reconcile(challenger(2), ready=False))
        with pytest.raises(NotReady, match="the revision 'r2' is not ready, so its requests go to 'r1'"):
            made.health()
        knative.status["latestReadyRevision"] = "r2"
        for percent in (0, 10, 100):
            cluster.put(SERVICE, knative.reconcile(challenger(2, percent)))
            assert made.health() is None


def test_a_configmap_s_challenger_is_looked_at_only_where_that_is_asked_for(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any]
) -> None:
    with traffic.connect("configmap", options, "search", "relevance") as made:
        assert made.health() is None
    assert cluster.requests == []
