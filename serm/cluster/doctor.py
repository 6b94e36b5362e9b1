"""What the cluster has and lacks for SERM, each with the fix; nothing is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serm.cluster.api import Api, Missing, Refused
from serm.errors import UserError
from serm.rollout.traffic import kserve

State = Literal["ok", "missing", "optional", "unknown"]
Mode = Literal["knative", "standard"]
#: Where Kubeflow and the projects' own installations put them.
_KSERVE, _KFP = ("kserve", "kubeflow"), ("kubeflow",)
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
#: Provisioners of disks that one node at a time mounts.
_ONE_NODE = ("ebs", "pd.csi", "disk.csi", "local-path", "no-provisioner", "cinder", "topolvm", "hostpath")
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")
#: What `kubectl apply -k` of an overlay makes: verb, group, resource, and whether it lies in the namespace.
RIGHTS = (
    ("create", "serving.kserve.io", "inferenceservices", True),
    ("create", "serving.kserve.io", "servingruntimes", True),
    ("create", "serving.kserve.io", "clusterstoragecontainers", False),
    ("create", "apps", "deployments", True),
    ("create", "batch", "cronjobs", True),
    ("create", "", "secrets", True),
    ("create", "", "persistentvolumeclaims", True),
    ("create", "networking.k8s.io", "networkpolicies", True),
    ("create", "rbac.authorization.k8s.io", "roles", True),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("create", "", "namespaces", False),
)


@dataclass(frozen=True)
class Check:
    """One part of the cluster."""

    part: str
    found: str
    state: State
    """``missing`` is needed, ``optional`` is for some uses; ``unknown`` could not be read."""
    fix: str = ""

    def row(self) -> dict[str, str]:
        """Return it as `serm doctor` prints all its checks."""
        return {**asdict(self), "for": "cluster"}


def examine(api: Api, namespace: str, service: str, mode: Mode, memory: str) -> list[Check]:
    """Return what the cluster has and lacks.

    Args:
        api: the API server.
        namespace: where SERM is to be.
        service: the InferenceService's name.
        mode: how KServe is to serve it.
        memory: of the largest step, as Kubernetes spells it.

    Raises:
        UserError: the server does not answer at all, or does not know the caller.
    """
    version = api.get("/version")
    groups = {str(one.get("name")) for one in api.get("/apis").get("groups") or [] if isinstance(one, dict)}
    parts: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("KServe", lambda: _kserve(api, groups, mode)),
        ("Gateway API", lambda: _gateway(api, groups, mode)),
        ("Knative", lambda: _knative(groups, mode)),
        ("Kubeflow Pipelines", lambda: _pipelines(api)),
        ("Kubeflow Trainer", lambda: _group(groups, "Kubeflow Trainer", "trainer.kubeflow.org", "`serm trainjob`")),
        ("Prometheus Operator", lambda: _group(groups, "Prometheus Operator", "monitoring.coreos.com", "alerts")),
        ("storage class", lambda: _storage(api)),
        ("nodes", lambda: _nodes(api, memory)),
        (f"namespace {namespace}", lambda: _namespace(api, namespace)),
        ("canary", lambda: _canary(api, namespace, service)),
        ("your rights", lambda: _rights(api, namespace)),
    ]
    checks = [_kubernetes(version)]
    for part, look in parts:
        try:
            checks += look()
        except Refused as refused:
            fix = f"you may not read {refused}: ask for the cluster role serm-doctor (manifests/cluster/doctor.yaml)"
            checks.append(Check(part, "", "unknown", fix))
        except Missing as missing:
            checks.append(Check(part, "", "unknown", f"{missing} is not there; is this the API server?"))
    return checks


def _kubernetes(version: dict[str, Any]) -> Check:
    found = str(version.get("gitVersion", ""))[:80]
    enough = _release(found) >= (1, 29)
    return Check("Kubernetes", found, "ok" if enough else "missing", "" if enough else "upgrade to 1.29 or later")


def _kserve(api: Api, groups: set[str], mode: Mode) -> Iterable[Check]:
    if "serving.kserve.io" not in groups:
        yield Check("KServe", "", "missing", "install KServe 0.21 or later: https://kserve.github.io/website")
        return
    image = _image(api, _KSERVE, "kserve-controller-manager")
    if image is None:
        fix = "no kserve-controller-manager in kserve or kubeflow; look up its version"
        yield Check("KServe", "its kinds", "unknown", fix)
    else:
        enough = _release(image) >= (0, 21)
        fix = "" if enough else "upgrade to 0.21 or later: canaries in Standard mode take no traffic before"
        yield Check("KServe", image, "ok" if enough else "missing", fix)
    told = _deploy_mode(api)
    if told is None:
        yield Check("KServe's default mode", "", "unknown", "no ConfigMap inferenceservice-config that can be read")
        return
    # SERM's InferenceService names its mode in an annotation, so the default need not be it.
    same = (told in ("Serverless", "Knative")) == (mode == "knative")
    yield Check("KServe's default mode", told, "ok", "" if same else f"serving.mode is {mode}; the annotation says so")


def _deploy_mode(api: Api) -> str | None:
    for namespace in _KSERVE:
        try:
            data = api.get(f"/api/v1/namespaces/{namespace}/configmaps/inferenceservice-config").get("data") or {}
            return str(json.loads(data.get("deploy") or "{}").get("defaultDeploymentMode", "Serverless"))[:40]
        except Missing:
            continue
        except (ValueError, AttributeError):
            return None
    return None


def _gateway(api: Api, groups: set[str], mode: Mode) -> Iterable[Check]:
    lacking: State = "missing" if mode == "standard" else "optional"
    if "gateway.networking.k8s.io" not in groups:
        fix = "install Gateway API's standard channel, and set ingress.enableGatewayApi in inferenceservice-config"
        yield Check("Gateway API", "", lacking, fix)
        return
    classes = [_name(one) for one in _items(api.get("/apis/gateway.networking.k8s.io/v1/gatewayclasses"))]
    if not classes:
        yield Check("Gateway API", "no GatewayClass", lacking, "install a controller, such as Envoy Gateway")
        return
    yield Check("Gateway API", ", ".join(classes)[:200], "ok")


def _knative(groups: set[str], mode: Mode) -> Iterable[Check]:
    needed = mode == "knative"
    lacking: State = "missing" if needed else "optional"
    for part, group in (("Knative", "serving.knative.dev"), ("Istio", "security.istio.io")):
        if group in groups:
            yield Check(part, group, "ok")
        else:
            yield Check(part, "", lacking, f"install {part}" + ("" if needed else ", for serving.mode knative only"))


def _pipelines(api: Api) -> Iterable[Check]:
    image = _image(api, _KFP, "ml-pipeline")
    if image is None:
        fix = "install Kubeflow Pipelines 2.x; without it `serm evolve` runs the same steps on one machine"
        yield Check("Kubeflow Pipelines", "", "missing", fix)
        return
    enough = _release(image) >= (2, 0)
    yield Check("Kubeflow Pipelines", image, "ok" if enough else "missing", "" if enough else "upgrade to 2.x")


def _group(groups: set[str], part: str, group: str, use: str) -> Iterable[Check]:
    if group in groups:
        yield Check(part, group, "ok")
    else:
        yield Check(part, "", "optional", f"install {part}, for {use}; leave its component out of your overlay else")


def _storage(api: Api) -> Iterable[Check]:
    classes = _items(api.get("/apis/storage.k8s.io/v1/storageclasses"))
    default = [one for one in classes if _annotations(one).get(_DEFAULT_CLASS) == "true"]
    if not default:
        names = ", ".join(map(_name, classes))[:200]
        fix = "mark one as the default, or set storageClassName in your overlay" if classes else "install a CSI driver"
        yield Check("storage class", names, "missing", fix)
        return
    found, provisioner = _name(default[0]), str(default[0].get("provisioner", ""))[:100]
    if any(one in provisioner for one in _ONE_NODE):
        fix = (
            "one node at a time mounts its disks: set storageClassName to one with ReadWriteMany (NFS, EFS, Filestore)"
        )
        yield Check("storage class", f"{found} ({provisioner})", "missing", f"{fix}, or take the overlay dev")
    else:
        yield Check("storage class", f"{found} ({provisioner})", "ok")


def _nodes(api: Api, memory: str) -> Iterable[Check]:
    nodes = [(one.get("status") or {}).get("allocatable") or {} for one in _items(api.get("/api/v1/nodes"))]
    largest = max((_bytes(str(one.get("memory", "0"))) for one in nodes), default=0.0)
    needed = _bytes(memory)
    fix = "" if largest >= needed else f"a step asks for {memory}: add a node with more, or lower it in `kubeflow`"
    found = f"{len(nodes)}, the largest with {largest / 2**30:.0f} GiB"
    yield Check("nodes", found, "ok" if largest >= needed else "missing", fix)
    gpus = sum(int(_bytes(str(one.get(name, "0")))) for one in nodes for name in _GPUS)
    if gpus:
        yield Check("GPUs", str(gpus), "ok")
    else:
        yield Check("GPUs", "", "optional", "for the overlay gpu: nodes with GPUs, and their device plugin")


def _namespace(api: Api, namespace: str) -> Iterable[Check]:
    part = f"namespace {namespace}"
    try:
        labels = (api.get(f"/api/v1/namespaces/{namespace}").get("metadata") or {}).get("labels") or {}
    except Missing:
        yield Check(part, "", "optional", "`kubectl apply -k` of an overlay makes it (docs/install-on-a-cluster.md)")
        return
    level = str(labels.get("pod-security.kubernetes.io/enforce", "privileged"))[:40]
    fix = "" if level == "restricted" else "apply manifests/cluster/namespace.yaml: nothing of SERM needs more"
    yield Check(part, f"Pod Security {level}", "ok" if level == "restricted" else "optional", fix)


def _canary(api: Api, namespace: str, service: str) -> Iterable[Check]:
    """Tell whether a transformer can send the challenger exactly the users who are its."""
    path = kserve.path(namespace, service)
    try:
        found = api.get(path)
    except Missing:
        yield Check("canary", "", "optional", f"no InferenceService {service}: apply the deploy step's manifest")
        return
    spec, status = found.get("spec") or {}, found.get("status") or {}
    try:
        kserve.require_ready(found, service)
        if "canary" in spec:
            yield Check("canary", str(spec["canary"][0]["predictor"]["name"])[:100], "ok")
            return
        traffic = ((status.get("components") or {}).get("predictor") or {}).get("traffic") or []
        url = next((str(one.get("url"))[:200] for one in traffic if one.get("tag") == "latest"), "")
    except (UserError, AttributeError, KeyError, TypeError) as error:
        yield Check("canary", "", "missing", str(error))
        return
    fix = f"annotate it {kserve.TAGS}=true: nothing names the challenger's revision, so requests go by weight"
    yield Check("canary", url, "ok" if url else "missing", "" if url else fix)


def _rights(api: Api, namespace: str) -> Iterable[Check]:
    for verb, group, resource, within in RIGHTS:
        allowed = api.may(verb, group, resource, namespace if within else "")
        name = f"{resource}.{group}" if group else resource
        where = f" in {namespace}" if within else ""
        fix = "" if allowed else f"ask an administrator to let you {verb} {name}{where}, or to apply the overlay"
        yield Check(f"you may {verb} {name}", "yes" if allowed else "no", "ok" if allowed else "missing", fix)


def _image(api: Api, namespaces: tuple[str, ...], deployment: str) -> str | None:
    """Return the image of a deployment's first container; None where no namespace has it."""
    for namespace in namespaces:
        try:
            found = api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}")
            return str(found["spec"]["template"]["spec"]["containers"][0]["image"])[:200]
        except Missing:
            continue
        except (KeyError, IndexError, TypeError):
            return None
    return None


def _release(text: str) -> tuple[int, int]:
    """Return the first version in a text, such as an image's tag; (0, 0) where none is."""
    found = re.search(r"(?:^|[:v])v?(\d{1,4})\.(\d{1,4})", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _bytes(text: str) -> float:
    """Return a Kubernetes quantity as a number; 0 for what is none."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)([KMGTP]i?|m|k)?", text)
    if not found:
        return 0.0
    suffix = found[2] or ""
    power = "KMGTP".find(suffix[:1].upper()) + 1 if suffix and suffix != "m" else 0
    return float(found[1]) * (1e-3 if suffix == "m" else (1024 if suffix.endswith("i") else 1000) ** power)


def _items(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in found.get("items") or [] if isinstance(one, dict)]


def _name(one: dict[str, Any]) -> str:
    return str((one.get("metadata") or {}).get("name", ""))[:100]


def _annotations(one: dict[str, Any]) -> dict[str, Any]:
    return (one.get("metadata") or {}).get("annotations") or {}
