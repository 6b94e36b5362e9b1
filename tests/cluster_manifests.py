"""The manifests as kubectl builds them, and what tests ask of them: schemas, pods, selectors, references."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

ROOT = Path(__file__).parents[1]
OVERLAYS = ("standard", "knative", "dev", "exported", "gpu", "spark")
KUBERNETES = "1.36"
_STRICT = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"
#: Of the account system:serviceaccounts and of every namespace: nobody applies them.
GIVEN = {("ConfigMap", "kube-root-ca.crt"), ("ClusterRole", "system:auth-delegator")}
_SCHEMAS = Path(__file__).parent / "data/schemas"
Object = dict[str, Any]


@cache
def built() -> dict[str, list[Object]]:
    """Return each overlay's objects; kubectl builds them side by side."""
    kubectl = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")
    assert kubectl, "kubectl is not there; pip install 'serm[dev]' brings it"
    running = {
        name: subprocess.Popen([kubectl, "kustomize", ROOT / "manifests/overlays" / name], stdout=-1, stderr=-1)
        for name in OVERLAYS
    }
    found = {}
    for name, process in running.items():
        out, problems = process.communicate(timeout=60)
        assert process.returncode == 0, problems.decode()
        assert b"eprecat" not in problems, problems.decode()
        found[name] = list(yaml.load_all(out, yaml.CSafeLoader))
    return found


def every(*kinds: str) -> list[tuple[str, Object]]:
    """Return all overlays' objects of these kinds, or all, each content once, with a name for messages."""
    seen: dict[str, tuple[str, Object]] = {}
    for overlay, objects in built().items():
        for one in objects:
            if not kinds or one["kind"] in kinds:
                seen.setdefault(json.dumps(one, sort_keys=True), (f"{overlay}: {name_of(one)}", one))
    return list(seen.values())


def the(overlay: str, kind: str, name: str) -> Object:
    (found,) = [o for o in built()[overlay] if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def name_of(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


@cache
def _schema(name: str) -> jsonschema.Draft202012Validator | None:
    path = _SCHEMAS / f"{name}.json.gz"
    return jsonschema.Draft202012Validator(json.loads(gzip.open(path).read())) if path.is_file() else None


def check(one: Object) -> None:
    """Hold an object against the schema of its kind: its project's CRD, or Kubernetes' own; unknown fields fail."""
    name = f"{one['apiVersion'].replace('/', '_')}_{one['kind']}"
    (_schema(name) or _core(one["kind"], one["apiVersion"])).validate(one)


@cache
def _core(kind: str, version: str) -> jsonschema.Draft202012Validator:
    """As ``kubernetes_validate.validate`` does, which reads all definitions anew for each object."""
    group, _, last = version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], last) if part)
    return jsonschema.Draft202012Validator(schema_contents(f"{_STRICT}/{name}.json", KUBERNETES), registry=_registry())


@cache
def _registry() -> Any:
    definitions = Resource.from_contents(schema_contents(f"{_STRICT}/_definitions.json", KUBERNETES))
    return definitions @ Registry()


@dataclass(frozen=True)
class Pods:
    """What an object makes pods of."""

    where: str
    spec: Object
    labels: dict[str, str]
    account: str
    token: bool
    serves: bool
    """Whether it runs until it is stopped, so that it needs probes."""
    replicas: int
    most: int

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: list[Object], overlay: str = "") -> Iterator[Pods]:
    """Yield what the objects make pods of; an InferenceService's models run in their runtime's container."""
    runtimes = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "ServingRuntime"}
    for one in objects:
        where, spec = f"{overlay}: {name_of(one)}", one.get("spec", {})
        match one["kind"]:
            case "Deployment":
                yield _pods(where, spec["template"], True, spec["replicas"])
            case "Job":
                yield _pods(where, spec["template"], False, 1)
            case "CronJob":
                yield _pods(where, spec["jobTemplate"]["spec"]["template"], False, 1)
            case "TrainingRuntime":
                for job in spec["template"]["spec"]["replicatedJobs"]:
                    yield _pods(where, job["template"]["spec"]["template"], False, 0)
            case "InferenceService":
                models = [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", []))]
                for model in models:
                    yield _served(f"{where} {model.get('name', 'predictor')}", _model(model, runtimes), "predictor")
                yield _served(f"{where} transformer", spec["transformer"], "transformer")


def _pods(where: str, template: Object, serves: bool, replicas: int) -> Pods:
    spec, labels = template["spec"], template.get("metadata", {}).get("labels", {})
    token = spec.get("automountServiceAccountToken", True)
    return Pods(where, spec, labels, spec.get("serviceAccountName", "default"), token, serves, replicas, replicas)


def _model(predictor: Object, runtimes: dict[str, Object]) -> Object:
    """Return a predictor's pod: its runtime's, over which KServe lays what the service says of the model."""
    model = predictor["model"]
    runtime = runtimes[model["runtime"]]
    (container,) = runtime["containers"]
    assert container["name"] == model["name"]
    over = {key: value for key, value in model.items() if key in ("resources", "securityContext")}
    return {**runtime, **predictor, "containers": [{**container, **over}], "volumes": runtime["volumes"]}


def _served(where: str, spec: Object, component: str) -> Pods:
    labels = {"serving.kserve.io/inferenceservice": "relevance", "component": component}
    least = spec.get("minReplicas", 1)
    token = spec.get("automountServiceAccountToken", True)
    account = spec.get("serviceAccountName", "default")
    return Pods(where, spec, labels, account, token, True, least, spec.get("maxReplicas", least))


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all, none at all takes nothing."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        {"In": labels.get(e["key"]) in e.get("values", []), "Exists": e["key"] in labels}[e["operator"]]
        for e in selector.get("matchExpressions", [])
    )


def references(one: Object) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, key or empty) of each ConfigMap, Secret, claim, account and role that an object names."""
    for path, value in _walk(one, ()):
        last = path[-1] if path else ""
        if last in ("configMapKeyRef", "secretKeyRef"):
            yield ("ConfigMap" if last.startswith("configMap") else "Secret"), value["name"], value["key"]
        elif last == "configMap" and "name" in value:
            for item in value.get("items", [{"key": ""}]):
                yield "ConfigMap", value["name"], item["key"]
        elif last == "secret" and isinstance(value, dict):
            yield "Secret", value["secretName"], ""
        elif last == "persistentVolumeClaim" and isinstance(value, dict):
            yield "PersistentVolumeClaim", value["claimName"], ""
        elif last == "serviceAccountName":
            yield "ServiceAccount", value, ""
        elif last == "roleRef":
            yield value["kind"], value["name"], ""
        elif last == "subjects":
            yield from (("ServiceAccount", subject["name"], "") for subject in value)
        elif last == "scaleTargetRef":
            yield value["kind"], value["name"], ""


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, (*path, ""))


def amount(text: str) -> float:
    """Return a Kubernetes quantity as a number."""
    for suffix, factor in {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "k": 1e3, "M": 1e6}.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
