"""Traffic in a cluster: KServe's InferenceService and Gateway API's HTTPRoute, on an API server that fails like one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cluster
import pytest
import yaml
from cluster_manifests import check

from serm.errors import UserError
from serm.rollout import traffic
from serm.rollout.assignment import GROUP_HEADER, Experiment, assign, serves
from serm.rollout.traffic import Conflict, State
from serm.serving.manifests import inference_service
from serm.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/rollout.md"
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


def documented() -> dict[str, Any]:
    """The HTTPRoute of docs/rollout.md."""
    found = re.search(r"```yaml\n(apiVersion: gateway.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return dict(yaml.safe_load(found[1]))


def weights(route: dict[str, Any], path: str, headers: dict[str, str]) -> dict[str, int]:
    """Service -> weight above 0, by the rule that Gateway API's precedence gives a request."""
    best: tuple[tuple[int, int], dict[str, int]] | None = None
    for one in route["spec"]["rules"]:
        for match in one.get("matches") or [{}]:
            prefix = match.get("path", {"value": "/"})["value"]
            wanted = {header["name"]: header["value"] for header in match.get("headers", [])}
            rank = (len(prefix), len(wanted))
            if path.startswith(prefix) and wanted.items() <= headers.items() and (best is None or rank > best[0]):
                best = rank, {ref["name"]: ref.get("weight", 1) for ref in one["backendRefs"] if ref.get("weight", 1)}
    assert best
    return best[1]


@pytest.fixture(params=["knative", "standard", "httproute"])
def backend(request: Any, cluster: fake_cluster.FakeCluster, options: dict[str, Any]) -> Iterator[Any]:
    """Each backend on its object, at 0 %, and the object's path."""
    if request.param == "httproute":
        cluster.put(ROUTE, documented())
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
    assert made.read().percent == 0
    assert made.set("cycle-0003", 25, made.read()).percent == 25
    then = made.set("cycle-0003", 0, made.read())
    assert (then.percent, then.experiment) == (0, "cycle-0003")
    after = cluster.objects[path]
    assert json.loads(after["metadata"]["annotations"]["serm/rollout"])["experiment"] == "cycle-0003"
    for one in (before, after):
        one["metadata"].pop("resourceVersion")
        one["metadata"].setdefault("annotations", {}).pop("serm/rollout", None)
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
    with pytest.raises(Conflict, match=r"the challenger has 10 % of 'cycle-0003', where 0 % of '.*' was read"):
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


@pytest.mark.parametrize("by_weight", [True, False], ids=["beside weights", "alone"])
def test_who_bears_the_group_s_header_is_sent_to_its_model_exactly_at_every_share(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any], by_weight: bool
) -> None:
    """A search service draws groups by what the route's annotation says, and the route never by lot."""
    route = documented()
    if not by_weight:
        drawn = route["spec"]["rules"][-1]
        drawn["backendRefs"] = [one for one in drawn["backendRefs"] if one["name"] == "champion"]
    cluster.put(ROUTE, route)
    users = [f"user-{n}" for n in range(60)]
    with traffic.connect("httproute", {**options, **ROUTES}, "search", "relevance") as made:
        for percent in (1, 25, 50, 100, 0):
            made.set("cycle-0003", percent, made.read())
            assert (made.read().experiment, made.read().percent) == ("cycle-0003", percent)
            found = cluster.objects[ROUTE]
            check({**found, "metadata": {"name": "relevance"}})
            said = json.loads(found["metadata"]["annotations"]["serm/rollout"])
            assert said == {"experiment": "cycle-0003", "percent": percent}
            groups = [assign(user, Experiment(said["experiment"]), said["percent"]) for user in users]
            assert percent in (0, 1) or "challenger" in groups
            for group in groups:
                assert list(weights(found, "/rank", {GROUP_HEADER: group})) == [serves(group)]
            without = weights(found, "/rank", {})
            shares = {"champion": 100 - percent, "challenger": percent} if by_weight else {"champion": 100}
            assert without == {name: one for name, one in shares.items() if one}
        # A search service that has not read of the roll-back yet keeps nobody at the challenger.
        assert list(weights(cluster.objects[ROUTE], "/rank", {GROUP_HEADER: "challenger"})) == ["champion"]


def of(group: str, *services: str, path: str | None = None, **more: int) -> dict[str, Any]:
    """A rule for a group's header."""
    match: dict[str, Any] = {"headers": [{"name": "X-SERM-Group", "value": group}]}
    if path:
        match["path"] = {"type": "PathPrefix", "value": path}
    return {"matches": [match], "backendRefs": [{"name": name, "weight": more.get(name, 1)} for name in services]}


EXACT = [
    of("challenger", "champion", "challenger", challenger=0),
    of("control", "champion"),
    of("champion", "champion"),
]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([*EXACT[:2], rule(100, 0)], "x-serm-group: champion would go by weight"),
        ([EXACT[0], rule(100, 0)], "x-serm-group: control would go by weight"),
        ([*EXACT, rule(100, 0, matches=[{"path": {"value": "/v1"}}])], "would go by weight; add a rule .*'/v1'"),
        ([*EXACT, of("control", "champion", "challenger")], "control must send to champion, and"),
        ([of("challenger", "challenger"), *EXACT[1:], rule(100, 0)], "challenger must send to challenger and champion"),
        ([{**EXACT[0], "matches": [*EXACT[0]["matches"], {}]}, *EXACT[1:]], "match nothing without that header"),
        ([*EXACT, rule(75, 25)], "no one whole percentage"),
        ([of("challenger", "champion", "challenger", champion=0), *EXACT[1:], rule(100, 0)], "no one whole percentage"),
        ([of("challenger", "champion", "challenger", champion=0), *EXACT[1:]], "no one whole percentage"),
    ],
)
def test_a_route_that_would_draw_by_lot_who_bears_the_header_is_an_error(
    cluster: fake_cluster.FakeCluster, options: dict[str, Any], rules: list[Any], told: str
) -> None:
    cluster.put(ROUTE, {"metadata": {"name": "relevance"}, "spec": {"rules": copy.deepcopy(rules)}})
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
