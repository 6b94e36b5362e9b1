"""Traffic in a cluster: KServe's InferenceService and Gateway API's HTTPRoute, on an API server that fails like one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cluster
import pytest

from serm.errors import UserError
from serm.rollout import traffic
from serm.rollout.traffic import Conflict, State
from serm.serving.manifests import inference_service
from serm.settings import Settings

SCHEMAS = Path(__file__).parents[1] / "data"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/search/inferenceservices/relevance"
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/search/httproutes/relevance"
ROUTES = {"route": "relevance", "champion": "champion", "challenger": "challenger"}


@pytest.fixture
def options(cluster: fake_cluster.FakeCluster, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "token").write_text(fake_cluster.TOKEN + "\n")
    return {
        "server": cluster.url,
        "token_file": str(tmp_path / "token"),
        "timeout_seconds": 0.3,
        "retry_seconds": 0.01,
    }


def service(mode: str, percent: int) -> dict[str, Any]:
    """What the deploy step writes."""
    window = {"number": 3, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    return inference_service(Settings.model_validate({"cycle": window, "serving": {"mode": mode}}), percent)


def rule(champion: int, challenger: int, **more: Any) -> dict[str, Any]:
    refs = [
        {"name": "champion", "port": 80, "weight": champion},
        {"name": "challenger", "port": 80, "weight": challenger},
    ]
    return {"backendRefs": refs, **more}


@pytest.fixture(params=["knative", "standard", "httproute"])
def backend(request: Any, cluster: fake_cluster.FakeCluster, options: dict[str, Any]) -> Iterator[Any]:
    """Each backend on its object, at 0 %, and the object's path."""
    if request.param == "httproute":
        only = {"matches": [{"headers": [{"name": "x-serm-group", "value": "challenger"}]}]}
        direct = {**only, "backendRefs": [{"name": "challenger", "port": 80}]}
        cluster.put(ROUTE, {"metadata": {"name": "relevance"}, "spec": {"rules": [direct, rule(100, 0, name="split")]}})
        with traffic.connect("httproute", {**options, **ROUTES}, "search", "relevance") as made:
            yield made, ROUTE
    else:
        cluster.put(SERVICE, service(request.param, 0))
        with traffic.connect("kserve", options, "search", "relevance") as made:
            yield made, SERVICE


def test_what_is_set_is_read_and_all_else_in_the_object_stays(backend: Any, cluster: fake_cluster.FakeCluster) -> None:
    made, path = backend
    before = json.loads(json.dumps(cluster.objects[path]))
    assert isinstance(made, traffic.Traffic)
    assert (made.read().percent, made.read().experiment) == (0, "")
    assert made.set("cycle-0003", 25, made.read()).percent == 25
    then = made.set("cycle-0003", 0, made.read())
    assert (then.percent, then.experiment) == (0, "cycle-0003")
    after = cluster.objects[path]
    assert after["metadata"]["annotations"].pop("serm/rollout") == '{"experiment": "cycle-0003", "percent": 0}'
    for one in (before, after):
        one["metadata"].pop("resourceVersion")
        one["metadata"].setdefault("annotations", {})
    assert after == before


FAULTS = {
    "busy, then not": [None, None, 503, 429],
    "an answer that is lost": [None, None, "silent"],
    "done, and told as failed": [None, None, ("done", 504)],
    "a status that changes meanwhile": [None, None, "meddle"],
    "a server that is restarted": [500, 502, None],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_faults_of_the_server_end_in_what_was_asked_for(
    backend: Any, cluster: fake_cluster.FakeCluster, faults: list[Any]
) -> None:
    made, path = backend
    cluster.faults = list(faults)
    assert made.set("cycle-0003", 10, made.read()).percent == 10
    assert made.read() == State("cycle-0003", 10, cluster.objects[path]["metadata"]["resourceVersion"])
    patches = [body for method, _, body in cluster.requests if method == "PATCH"]
    assert patches


def test_a_server_that_stays_down_is_told_and_nothing_has_changed(
    backend: Any, cluster: fake_cluster.FakeCluster
) -> None:
    made, _ = backend
    seen = made.read()
    cluster.faults = [503] * 4
    with pytest.raises(UserError, match="no answer in 4 attempts, at last HTTP 503"):
        made.set("cycle-0003", 10, seen)
    assert made.read() == seen


def test_of_two_controllers_that_read_the_same_one_is_told_of_the_other(backend: Any) -> None:
    made, _ = backend
    seen = made.read()
    made.set("cycle-0003", 10, seen)
    with pytest.raises(Conflict, match="the challenger has 10 % of 'cycle-0003', where 0 % of '' was read"):
        made.set("cycle-0003", 25, seen)
    assert made.read().percent == 10
    assert made.set("cycle-0003", 10, seen).percent == 10  # what is in force already is no conflict


def test_a_patch_is_shown_without_being_sent(backend: Any, cluster: fake_cluster.FakeCluster) -> None:
    made, _ = backend
    shown = made.patch("cycle-0003", 5, made.read())
    assert "serm/rollout" in json.dumps(shown)
    assert {method for method, _, _ in cluster.requests} == {"GET"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"}}}, "neither Knative nor"),
        ({"spec": {"predictor": {"canaryTrafficPercent": 10}}}, "canaryTrafficPercent is ignored in Standard mode"),
        ({"spec": {"canary": []}}, "must hold the challenger alone"),
        ({"spec": {"canary": [{"predictor": {"name": "x"}, "trafficPercent": "ten"}]}}, "'ten' is no percentage"),
        ({"spec": {"canary": [{"predictor": {}, "trafficPercent": 1}]}}, "the canary needs a name of its own"),
        ({"spec": {"predictor": {"name": "cycle-0003"}}}, "the canary needs a name of its own"),
        ({"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "Knative"}}}, "ignored in Knative mode"),
        ({"status": {"deploymentMode": "Serverless"}}, "says 'Standard' and KServe runs it as 'Serverless'"),
        ({"metadata": {"annotations": {"serm/rollout": "{"}}}, "is none of SERM's"),
    ],
)
def test_a_service_whose_canary_the_cluster_would_ignore_is_an_error(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    found = service("standard", 0)
    fake_cluster._merge(found, change)
    cluster.put(SERVICE, found)
    with traffic.connect("kserve", options, "search", "relevance") as made, pytest.raises(UserError, match=told):
        made.read()


def test_a_canary_that_is_not_ready_holds_the_ramp_for_the_cluster_sends_it_nothing(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any]
) -> None:
    found = service("standard", 10)
    with traffic.connect("kserve", options, "search", "relevance") as made:
        for ready in (True, False):
            cluster.put(SERVICE, {**found, "status": {"canaryStatuses": [{"name": "cycle-0003", "ready": ready}]}})
            if ready:
                assert made.health() is None
            else:
                with pytest.raises(UserError, match="the canary 'cycle-0003' is not ready"):
                    made.health()


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([rule(100, 0), rule(90, 10)], "no one whole percentage"),
        ([rule(2, 1)], "no one whole percentage"),
        ([{"backendRefs": [{"name": "champion"}]}], "no rule sends to both"),
        ([], "no rule sends to both"),
    ],
)
def test_a_route_that_splits_otherwise_is_an_error(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any], rules: list[Any], told: str
) -> None:
    cluster.put(ROUTE, {"metadata": {"name": "relevance"}, "spec": {"rules": rules}})
    with (
        traffic.connect("httproute", {**options, **ROUTES}, "search", "relevance") as made,
        pytest.raises(UserError, match=told),
    ):
        made.read()


def test_a_missing_object_a_wrong_token_and_wrong_options_are_told_with_the_fix(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any], tmp_path: Path
) -> None:
    with traffic.connect("kserve", options, "search", "relevance") as made:
        with pytest.raises(UserError, match="no such object; apply the manifest"):
            made.read()
        (tmp_path / "token").write_text("another")
        with pytest.raises(UserError, match=r"the token may not do this \(HTTP 401\)"):
            made.read()
    with pytest.raises(UserError, match=r"rollout\.traffic_options: sever: Extra inputs"):  # noqa: SIM117
        with traffic.connect("kserve", {"sever": "x"}, "search", "relevance"):
            pass
    with pytest.raises(UserError, match=r"no installed package registers 'istio' as an entry point of serm\.traffic"):
        traffic.connect("istio", {}, "search", "relevance")
