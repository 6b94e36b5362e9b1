"""`serm doctor --cluster` against an API server on a socket: what is there, what lacks, what may not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_cluster
import pytest
import yaml
from command_line import Serm
from fake_kserve import Knative

from serm.cluster import api
from serm.serving.manifests import inference_service
from serm.settings import Settings

GROUPS = (
    "serving.kserve.io",
    "gateway.networking.k8s.io",
    "serving.knative.dev",
    "security.istio.io",
    "trainer.kubeflow.org",
    "monitoring.coreos.com",
)
APPS, CORE = "/apis/apps/v1/namespaces", "/api/v1/namespaces"
CLASSES, NODES = "/apis/storage.k8s.io/v1/storageclasses", "/api/v1/nodes"
CONTROLLER = f"{APPS}/kserve/deployments/kserve-controller-manager"
CONFIG = f"{CORE}/kserve/configmaps/inferenceservice-config"
GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
RELEVANCE = "/apis/serving.kserve.io/v1beta1/namespaces/search/inferenceservices/relevance"
DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}


def deployment(image: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}


def deployed(mode: str, number: int = 3) -> dict[str, Any]:
    window = {"number": number, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    return inference_service(Settings.model_validate({"cycle": window, "serving": {"mode": mode}}), 0)


def knative(**annotations: str) -> dict[str, Any]:
    """A service whose second revision is the challenger, with KServe's status."""
    made, found = Knative(), [deployed("knative", number) for number in (1, 2)]
    del found[0]["spec"]["predictor"]["canaryTrafficPercent"]
    for one in found:
        one["metadata"]["annotations"] |= annotations
        last = made.reconcile(one)
    return last


def storage(name: str, provisioner: str, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner}


@pytest.fixture
def whole(cluster: fake_cluster.FakeCluster, monkeypatch: pytest.MonkeyPatch) -> fake_cluster.FakeCluster:
    """A cluster that has all that the overlays ask for."""
    monkeypatch.setattr(api, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("serm.cluster.api.time.sleep", lambda seconds: None)
    cluster.put("/version", {"gitVersion": "v1.36.1"})
    cluster.put("/apis", {"groups": [{"name": name} for name in GROUPS]})
    cluster.put(CONTROLLER, deployment("kserve/kserve-controller:v0.21.0"))
    cluster.put(CONFIG, {"data": {"deploy": '{"defaultDeploymentMode": "Standard"}'}})
    cluster.put(GATEWAYS, {"items": [{"metadata": {"name": "envoy"}}]})
    cluster.put(f"{APPS}/kubeflow/deployments/ml-pipeline", deployment("ghcr.io/kubeflow/kfp-api-server:2.17.0"))
    cluster.put(CLASSES, {"items": [storage("nfs", "nfs.csi.k8s.io", **DEFAULT)]})
    cluster.put(NODES, {"items": [{"status": {"allocatable": {"memory": "32879404Ki", "nvidia.com/gpu": "2"}}}]})
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.put(f"{CORE}/search", {"metadata": {"labels": labels}})
    cluster.put(RELEVANCE, deployed("standard"))
    return cluster


@pytest.fixture
def look(whole: fake_cluster.FakeCluster, serm: Serm, tmp_path: Path) -> Any:
    """Run it as a user does, and return the exit code and part -> check."""

    def run(token: str = fake_cluster.TOKEN, server: str = whole.url) -> tuple[int, dict[str, Any], str]:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config), encoding="utf-8")
        done = serm("doctor", "--cluster", "--kubeconfig", "config", "--json", cwd=tmp_path)
        checks = json.loads(done.stdout) if done.stdout.strip() else []
        return done.returncode, {one["part"]: one for one in checks}, done.stderr

    return run


def test_a_cluster_that_has_all_is_said_to_have_it_and_nothing_is_changed(
    look: Any, whole: fake_cluster.FakeCluster
) -> None:
    code, checks, _ = look()
    assert code == 0
    assert {one["part"]: one["fix"] for one in checks.values() if one["state"] != "ok"} == {}
    assert len(checks) > 20
    assert checks["KServe"]["found"] == "kserve/kserve-controller:v0.21.0"
    assert checks["GPUs"]["found"] == "2"
    writes = {path for method, path, _ in whole.requests if method != "GET"}
    assert writes == {"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"}


LACKS: dict[str, tuple[str, Any, str, str, str]] = {
    "an old Kubernetes": ("/version", {"gitVersion": "v1.27.3-gke"}, "Kubernetes", "missing", "upgrade to 1.29"),
    "nothing installed": ("/apis", {"groups": []}, "KServe", "missing", "install KServe 0.21"),
    "no gateway": ("/apis", {"groups": [{"name": "serving.kserve.io"}]}, "Gateway API", "missing", "standard channel"),
    "no gateway's controller": (GATEWAYS, {"items": []}, "Gateway API", "missing", "install a controller"),
    "no Knative": ("/apis", {"groups": []}, "Knative", "optional", "serving.mode knative only"),
    "no Prometheus": ("/apis", {"groups": []}, "Prometheus Operator", "optional", "leave its component out"),
    "an old KServe": (
        CONTROLLER,
        deployment("kserve/controller:v0.15.2"),
        "KServe",
        "missing",
        "take no traffic",
    ),
    "no default class": (CLASSES, {"items": [storage("nfs", "nfs")]}, "storage class", "missing", "mark one"),
    "no class": (CLASSES, {"items": []}, "storage class", "missing", "install a CSI driver"),
    "disks of one node": (
        CLASSES,
        {"items": [storage("gp3", "ebs.csi.aws.com", **DEFAULT)]},
        "storage class",
        "missing",
        "ReadWriteMany",
    ),
    "small nodes": (NODES, {"items": [{"status": {"allocatable": {"memory": "2Gi"}}}]}, "nodes", "missing", "asks for"),
    "no GPU": (NODES, {"items": []}, "GPUs", "optional", "overlay gpu"),
    "no name for the canary": (
        RELEVANCE,
        knative(**{"serving.kserve.io/enable-tag-routing": "false"}),
        "canary",
        "missing",
        "enable-tag-routing=true: nothing names the challenger's revision",
    ),
    "no canary": (RELEVANCE, Knative().reconcile(deployed("knative")), "canary", "missing", "there is no challenger"),
    "an open namespace": (f"{CORE}/search", {"metadata": {}}, "namespace search", "optional", "namespace.yaml"),
}


@pytest.mark.parametrize(("path", "found", "part", "state", "fix"), LACKS.values(), ids=LACKS)
def test_what_lacks_is_named_with_its_fix(
    look: Any, whole: fake_cluster.FakeCluster, path: str, found: Any, part: str, state: str, fix: str
) -> None:
    whole.put(path, found)
    code, checks, _ = look()
    assert checks[part]["state"] == state
    assert fix in checks[part]["fix"]
    assert code == (1 if "missing" in {one["state"] for one in checks.values()} else 0)


def test_the_canary_is_told_by_the_name_that_a_transformer_asks_it_by(
    look: Any, whole: fake_cluster.FakeCluster
) -> None:
    assert look()[1]["canary"]["found"] == "cycle-0003"
    whole.put(RELEVANCE, knative())
    assert look()[1]["canary"] == {
        "part": "canary",
        "found": "http://latest-relevance-predictor.search",
        "state": "ok",
        "fix": "",
        "for": "cluster",
    }
    del whole.objects[RELEVANCE]
    assert "apply the deploy step's manifest" in look()[1]["canary"]["fix"]


def test_what_may_not_be_read_is_unknown_and_all_else_is_told(look: Any, whole: fake_cluster.FakeCluster) -> None:
    whole.forbidden = {NODES, CLASSES, f"{CORE}/kserve", GATEWAYS}
    code, checks, _ = look()
    assert code == 0
    for part in ("nodes", "storage class", "KServe", "Gateway API"):
        assert checks[part]["state"] == "unknown"
        assert "serm-doctor" in checks[part]["fix"]
    assert checks["Kubeflow Pipelines"]["state"] == "ok"


def test_rights_that_the_caller_lacks_are_named_one_by_one(look: Any, whole: fake_cluster.FakeCluster) -> None:
    whole.denied = {"clusterstoragecontainers", "roles"}
    code, checks, _ = look()
    assert code == 1
    lacking = [part for part, one in checks.items() if one["state"] == "missing"]
    assert lacking == [
        "you may create clusterstoragecontainers.serving.kserve.io",
        "you may create roles.rbac.authorization.k8s.io",
    ]
    assert "to let you create roles.rbac.authorization.k8s.io in search" in checks[lacking[1]]["fix"]


def test_kubeflow_s_own_namespace_is_looked_at_too(look: Any, whole: fake_cluster.FakeCluster) -> None:
    whole.put(CONTROLLER.replace("/kserve/deploy", "/kubeflow/deploy"), whole.objects.pop(CONTROLLER))
    assert look()[1]["KServe"]["state"] == "ok"


def test_a_token_that_the_server_does_not_know_is_one_sentence(look: Any) -> None:
    code, checks, told = look(token="another")
    assert (code, checks) == (2, {})
    assert told.count("\n") == 1
    assert "does not know you (HTTP 401)" in told
    assert "another" not in told.replace("another --context", "")


@pytest.mark.parametrize("faults", [[503, 429], ["silent", 500]], ids=str)
def test_a_busy_server_is_asked_again(look: Any, whole: fake_cluster.FakeCluster, faults: list[Any]) -> None:
    whole.faults = list(faults)
    assert look()[0] == 0


def test_a_server_that_stays_down_or_is_none_is_one_sentence(look: Any, whole: fake_cluster.FakeCluster) -> None:
    whole.faults = [503] * 3
    code, _, told = look()
    assert code == 2
    assert "/version: gives no answer (HTTP 503)" in told
    code, _, told = look(server="http://127.0.0.1:1")
    assert code == 2
    assert "gives no answer" in told
    assert told.count("\n") == 1


def test_answers_that_are_no_kubernetes_do_no_harm(look: Any, whole: fake_cluster.FakeCluster) -> None:
    whole.put("/version", {"gitVersion": "[red]\x1b[2J" + "9" * 5_000})
    whole.put("/apis", {"groups": ["x", {"name": 7}, {"name": "serving.kserve.io"}]})
    whole.put(CONTROLLER, {"spec": []})
    whole.put(CONFIG, {"data": {"deploy": "[1]"}})
    whole.put(CLASSES, {"items": [None, {"metadata": None}]})
    whole.put(NODES, {"items": [{"status": {"allocatable": {"memory": "lots", "nvidia.com/gpu": "-1"}}}]})
    code, checks, told = look()
    assert (code, told) == (1, "")
    assert len(checks["Kubernetes"]["found"]) <= 80


def test_without_a_kubeconfig_the_fix_is_told(serm: Serm, tmp_path: Path) -> None:
    done = serm("doctor", "--cluster", "--kubeconfig", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "give --kubeconfig and --context, as for kubectl" in done.stderr
