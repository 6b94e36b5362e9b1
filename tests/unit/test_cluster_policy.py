"""What no pod, role or flow of the manifests may do: the restricted standard and more; each rule is tried."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from cluster_manifests import OVERLAYS, ROOT, Object, Pods, built, every, name_of, pods, selects, the

from serm.rollout.traffic import httproute, kserve

#: They talk to the API server; no other pod has a token by itself.
TOKENS = {"serm-rollout", "serm-spark"}
#: Writes KServe's volume and git's scratch directory; ClusterStorageContainer takes no further volume.
WRITES_ITS_ROOT = {"storage-initializer"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def breaches(made: Pods) -> Iterator[str]:
    """What of a pod Kubernetes' restricted Pod Security Standard refuses, or this project does."""
    pod = made.spec.get("securityContext", {})
    if any(made.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of its host"
    if any(not VOLUMES & one.keys() for one in made.spec.get("volumes", [])):
        yield "mounts what is no volume of the standard"
    if made.account == "default":
        yield "runs as the default account"
    if made.token and made.account not in TOKENS:
        yield "has the token of an account that needs none"
    for one in made.containers:
        yield from (f"{one['name']} {breach}" for breach in _container(one, pod, made.serves))


def _container(one: Object, pod: Object, serves: bool) -> Iterator[str]:
    own = one.get("securityContext", {})
    context = {**pod, **own}
    if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
        yield "may be root"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain rights"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "may make any system call"
    if own.get("readOnlyRootFilesystem") is not True and one["name"] not in WRITES_ITS_ROOT:
        yield "writes its root"
    for of in ("requests", "limits"):
        if not {"cpu", "memory"} <= one.get("resources", {}).get(of, {}).keys():
            yield f"has no {of}"
    if serves and not {"readinessProbe", "livenessProbe"} <= one.keys():
        yield "has no probes"
    if any("value" in variable and "SECRET" in variable["name"] for variable in one.get("env", [])):
        yield "has a secret in its manifest"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_may_do_more_than_it_needs(overlay: str) -> None:
    found = list(pods(built()[overlay], overlay))
    assert len(found) >= 9
    assert {made.where: list(breaches(made)) for made in found if list(breaches(made))} == {}
    storage = the(overlay, "ClusterStorageContainer", "serm-dvc")["spec"]["container"]
    assert list(_container(storage, {}, False)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_runs_git_or_evidently_or_counts_has_the_image_that_brings_it(overlay: str) -> None:
    """serm-data has neither git nor Evidently nor Prometheus' client."""
    needy = [
        one
        for made in pods(built()[overlay], overlay)
        for one in made.containers
        if one.get("command", [None])[0] in ("git", "evidently") or one.get("command", [])[:2] == ["serm", "metrics"]
    ]
    assert needy
    assert {re.sub(r".*/|:.*", "", one["image"]) for one in needy} == {"serm-train"}


def test_what_meets_a_request_has_the_image_without_torch_where_models_are_exported() -> None:
    """serm-serve runs a transformer and an export; a trained model, and who reads a rollout's log, need serm-train."""
    runs: dict[str, dict[str, str]] = {}
    for overlay in ("standard", "exported"):
        for made in pods(built()[overlay], overlay):
            for one in made.containers:
                words = " ".join(one.get("command", []))
                runs.setdefault(overlay, {})[words] = re.sub(r".*/|:.*", "", one["image"])
    for overlay, image in {"standard": "serm-train", "exported": "serm-serve"}.items():
        assert runs[overlay]["python -m serm.serving.predictor"] == image
        assert runs[overlay]["python -m serm.serving.transformer"] == "serm-serve"
        assert runs[overlay]["serm rollout tick"] == "serm-train"


def _set(path: str, value: Any) -> Callable[[Object], None]:
    def change(spec: Object) -> None:
        *within, last = path.split("/")
        for key in within:
            spec = spec[int(key)] if isinstance(spec, list) else spec.setdefault(key, {})
        spec[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("hostNetwork", True), "namespace of its host"),
        (_set("volumes/0/hostPath", {"path": "/"}), ""),
        (_set("serviceAccountName", "default"), "default account"),
        (_set("automountServiceAccountToken", True), "needs none"),
        (_set("containers/0/securityContext/runAsNonRoot", False), "may be root"),
        (_set("containers/0/securityContext/runAsUser", 0), "may be root"),
        (_set("containers/0/securityContext/allowPrivilegeEscalation", True), "gain rights"),
        (_set("containers/0/securityContext/capabilities", {"add": ["NET_RAW"]}), "capabilities"),
        (_set("containers/0/securityContext/readOnlyRootFilesystem", False), "writes its root"),
        (_set("containers/0/securityContext/seccompProfile", {"type": "Unconfined"}), "system call"),
        (_set("containers/0/resources/limits", {"cpu": "1"}), "no limits"),
        (_set("containers/0/livenessProbe", None), ""),
        (_set("containers/0/env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]), "secret in its manifest"),
    ],
)
def test_each_breach_is_found(change: Callable[[Object], None], told: str) -> None:
    one = copy.deepcopy(the("standard", "Deployment", "serm-exporter"))
    spec = one["spec"]["template"]["spec"]
    change(spec)
    if not told:  # a volume that is not of the standard, a probe that is gone
        spec["volumes"][0].pop("persistentVolumeClaim", None)
        spec["containers"][0] = {k: v for k, v in spec["containers"][0].items() if v is not None}
    (made,) = pods([one])
    found = list(breaches(made))
    assert found
    assert any(told in breach for breach in found)


def test_roles_name_their_verbs_and_never_read_secrets() -> None:
    roles = every("Role", "ClusterRole")
    assert len(roles) >= 6
    for where, role in roles:
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not [word for word in words if "*" in word], where
            assert "secrets" not in rule["resources"], where
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), where
            if {"patch", "update", "delete"} & set(rule["verbs"]) and role["metadata"]["name"] != "serm-spark":
                assert rule.get("resourceNames"), f"{where}: any {rule['resources']}"


def test_each_verb_has_its_reason_beside_it() -> None:
    verbs = 0
    for file in (ROOT / "manifests").rglob("*.yaml"):
        within = False
        for line in file.read_text(encoding="utf-8").splitlines():
            within = bool(re.match(r"\s+verbs:", line)) or (within and bool(re.match(r"\s+- \w+(?:  # |$)", line)))
            if within:
                assert "verbs: [" not in line, f"{file.name}: {line}"
            if within and "verbs:" not in line:
                verbs += 1
                assert re.fullmatch(r"\s+- [a-z]+  # \S.{4,}", line), f"{file.name}: {line}"
    assert verbs == sum(len(rule["verbs"]) for _, role in every("Role", "ClusterRole") for rule in role["rules"])


def test_the_documented_patch_lets_the_rollout_change_what_its_other_backends_change() -> None:
    page = (ROOT / "docs/rollout.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(patches:\n.*?)```", page, re.DOTALL)
    assert found
    (patch,) = yaml.safe_load(found[1])["patches"]
    assert the("standard", *patch["target"].values())  # what it is added to
    added = [one["value"] for one in yaml.safe_load(patch["patch"])]
    sources = [inspect.getsource(backend) for backend in (kserve, httproute)]
    for rule, source in zip(added, sources, strict=True):
        assert f"/apis/{rule['apiGroups'][0]}/" in source
        assert f"/{rule['resources'][0]}/" in source
        assert (rule["verbs"], rule["resourceNames"]) == (["get", "patch"], ["relevance"])
    assert all(re.search(rf"- {verb}  # \S.{{4,}}", patch["patch"]) for verb in ("get", "patch"))


def _ports(rule: Object) -> set[int]:
    return {port["port"] for port in rule.get("ports", [])}


def _policies(overlay: str, way: str, labels: dict[str, str]) -> list[Object]:
    """The rules of one way (ingress, egress) of every policy that takes pods with these labels."""
    return [
        rule
        for one in built()[overlay]
        if one["kind"] == "NetworkPolicy" and selects(one["spec"]["podSelector"], labels)
        for rule in one["spec"].get(way, [])
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_reached_but_by_a_named_flow(overlay: str) -> None:
    denied = the(overlay, "NetworkPolicy", "deny-all")["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in (one for one in built()[overlay] if one["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from"), f"{overlay}: {name_of(policy)} lets everybody in"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_stands_behind_a_policy_that_opens_its_ports(overlay: str) -> None:
    services = [one for one in built()[overlay] if one["kind"] == "Service"]
    assert services
    made = list(pods(built()[overlay]))
    for service in services:
        behind = [one for one in made if selects({"matchLabels": service["spec"]["selector"]}, one.labels)]
        assert behind, f"{overlay}: {name_of(service)} has no pods"
        names = {
            port["name"]: port["containerPort"]
            for one in behind
            for container in one.containers
            for port in container.get("ports", [])
            if "name" in port
        }
        rules = _policies(overlay, "ingress", behind[0].labels)
        for port in service["spec"]["ports"]:
            number = names.get(port["targetPort"], port["targetPort"])
            assert number in names.values(), f"{overlay}: {name_of(service)}: nobody listens on {number}"
            assert any(number in _ports(rule) for rule in rules), f"{overlay}: {name_of(service)}: {number} is shut"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_flow_between_pods_is_open_at_both_ends(overlay: str) -> None:
    made = list(pods(built()[overlay]))
    flows = 0
    for one in made:
        for rule in _policies(overlay, "egress", one.labels):
            for peer in rule.get("to", []):
                if "namespaceSelector" in peer:
                    continue
                for other in (other for other in made if selects(peer["podSelector"], other.labels)):
                    taken = [
                        into
                        for into in _policies(overlay, "ingress", other.labels)
                        if any(selects(source.get("podSelector"), one.labels) for source in into["from"])
                    ]
                    assert any(_ports(rule) <= _ports(into) for into in taken), f"{one.where} to {other.where}"
                    flows += 1
    assert flows >= 2


def test_nobody_reaches_the_models_but_the_transformer_and_prometheus() -> None:
    predictor = {"serving.kserve.io/inferenceservice": "relevance", "component": "predictor"}
    sources = [source for rule in _policies("standard", "ingress", predictor) for source in rule["from"]]
    assert sources == [
        {
            "podSelector": {
                "matchLabels": {"serving.kserve.io/inferenceservice": "relevance", "component": "transformer"}
            }
        },
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]


def test_nobody_scores_without_a_token() -> None:
    transformer = {"serving.kserve.io/inferenceservice": "relevance", "component": "transformer"}
    for rule in _policies("standard", "ingress", transformer):
        searches = {"namespaceSelector": {"matchLabels": {"serm/searches": "true"}}}
        if searches in rule["from"]:
            assert _ports(rule) == {8443}
    containers = the("standard", "InferenceService", "relevance")["spec"]["transformer"]["containers"]
    (proxy,) = [one for one in containers if one["name"] == "token"]
    assert {"--upstream=http://127.0.0.1:8080/", "--allow-paths=/rank"} <= set(proxy["args"])
    (account,) = [m for one in containers for m in one["volumeMounts"] if "serviceaccount" in m["mountPath"]]
    assert account in proxy["volumeMounts"]
    attributes = re.findall(r"(\w+): ([\w.]+)$", the("standard", "ConfigMap", "serm-proxy")["data"]["proxy.yaml"], re.M)
    (rule,) = the("standard", "Role", "serm-searcher")["rules"]
    asked = dict(attributes)
    assert ([asked["apiGroup"]], [asked["resource"]], [asked["name"]]) == (
        rule["apiGroups"],
        rule["resources"],
        rule["resourceNames"],
    )
    policy = the("knative", "AuthorizationPolicy", "serm-searches")["spec"]
    for rule in policy["rules"]:
        paths = {path for to in rule["to"] for path in to["operation"]["paths"]}
        assert "from" in rule or "/rank" not in paths


def test_people_s_pages_have_no_way_in_but_a_forwarded_port() -> None:
    for name in ("serm-review", "serm-evidently"):
        (made,) = pods([the("standard", "Deployment", name)])
        assert not [one for one in made.containers if one.get("ports")]
        assert not _policies("standard", "ingress", made.labels)
        services = [one for one in built()["standard"] if one["kind"] == "Service"]
        assert not [one for one in services if selects({"matchLabels": one["spec"]["selector"]}, made.labels)]
    forwards = [
        role["metadata"]["name"]
        for _, role in every("Role", "ClusterRole")
        for rule in role["rules"]
        if "pods/portforward" in rule["resources"]
    ]
    assert set(forwards) == {"serm-reviewer"}
