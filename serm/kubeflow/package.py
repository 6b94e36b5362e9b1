"""A compiled pipeline with what the section ``kubeflow`` of params.yaml asks of the cluster: what is uploaded.

The shipped pipelines hold the defaults of the table of steps; the settings are put on top of them here, as the compiler
would have written them, so that a cluster's own needs take no checkout of SERM.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from serm.errors import UserError
from serm.settings import KubeflowSettings
from serm.settings.kubeflow import TaskSettings

COMPILED = Path(str(files("serm.workspace") / "compiled"))
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it is there, is ten times as fast
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_IMAGE = re.compile(r"[^@]*/serm-(data|train|judge|serve)[:@]")
_EXECUTOR = re.compile(r"exec-(.+?)(?:-\d+)?")


@dataclass(frozen=True)
class Package:
    """A pipeline, ready to be uploaded."""

    name: str
    """KFP's name of the pipeline: ``serm-evolve``."""
    text: str
    """Its IR as YAML: the pipeline's spec, then the platform's."""
    parameters: dict[str, dict[str, Any]]
    """The definitions of its parameters, by their names: parameterType, defaultValue, isOptional, description."""

    @property
    def version(self) -> str:
        """The name of its version: what is the same has the same name, and is uploaded once."""
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"


def pipelines() -> list[str]:
    """Return the names of the pipelines that SERM brings."""
    return sorted(path.stem for path in COMPILED.glob("*.yaml"))


def package(pipeline: str, settings: KubeflowSettings) -> Package:
    """Return ``pipeline`` with what the settings give to its steps.

    Raises:
        UserError: there is no such pipeline, a step or a parameter of the settings is in none, or an
            image has no digest where the settings ask for one.
    """
    if pipeline not in pipelines():
        raise UserError(f"{pipeline!r} is no pipeline of SERM; give one of {', '.join(pipelines())}.")
    documents = [_documents(COMPILED / f"{name}.yaml") for name in pipelines()]
    steps = {_step(label) for spec, _ in documents for label, _ in _containers(spec)}
    if unknown := sorted(settings.steps.keys() - steps):
        known = ", ".join(sorted(steps))
        raise UserError(f"params.yaml: kubeflow.steps: {unknown[0]!r} is no step of a pipeline; there are {known}.")
    names = {name for one, _ in documents for name in _parameters(one)}
    if unknown := sorted(settings.parameters.keys() - names):
        known = ", ".join(sorted(names))
        raise UserError(
            f"params.yaml: kubeflow.parameters: {unknown[0]!r} is a parameter of no pipeline; there are {known}."
        )
    spec, platform = _documents(COMPILED / f"{pipeline}.yaml")
    given(spec, platform, settings)
    text = "---\n".join(yaml.dump(one, Dumper=_DUMPER, sort_keys=True) for one in (spec, platform) if one)
    return Package(spec["pipelineInfo"]["name"], text, _parameters(spec))


def given(spec: dict[str, Any], platform: dict[str, Any], settings: KubeflowSettings) -> None:
    """Write into a pipeline's spec and its platform's what ``settings`` gives to the steps."""
    for label, container in _containers(spec):
        container["image"] = _image(container["image"], settings)
        task = settings.of(_step(label))
        if resources := _resources(container.get("resources", {}), task):
            container["resources"] = resources
        if config := _on_kubernetes(task):
            executors = _within(platform, "platforms", "kubernetes", "deploymentSpec", "executors")
            executors[label] = {**executors.get(label, {}), **config}
        if task.retries is not None:
            for one in _tasks_of(spec, label):
                one["retryPolicy"] = _retries(task)
    if workspace := platform.get("platforms", {}).get("kubernetes", {}).get("pipelineConfig", {}).get("workspace"):
        workspace["size"] = settings.workspace_size
        if settings.storage_class:
            _within(workspace, "kubernetes", "pvcSpecPatch")["storageClassName"] = settings.storage_class


def _documents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, *platform = yaml.load_all(path.read_text(encoding="utf-8"), Loader=_LOADER)
    return spec, platform[0] if platform else {}


def _parameters(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return found


def _containers(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    executors = spec["deploymentSpec"]["executors"]
    return [(label, executor["container"]) for label, executor in executors.items() if "container" in executor]


def _step(label: str) -> str:
    match = _EXECUTOR.fullmatch(label)
    return (match[1] if match else label).replace("-", "_")


def _tasks_of(spec: dict[str, Any], label: str) -> list[dict[str, Any]]:
    components = spec["components"]
    names = {name for name, component in components.items() if component.get("executorLabel") == label}
    dags = [spec["root"]["dag"], *(component["dag"] for component in components.values() if "dag" in component)]
    return [task for dag in dags for task in dag["tasks"].values() if task["componentRef"]["name"] in names]


def _image(image: str, settings: KubeflowSettings) -> str:
    if match := _IMAGE.match(image):
        image = next((own for name, own in settings.images.items() if name == match[1]), image)
    if settings.digests_only and not re.search(r"@sha256:[0-9a-f]{64}$", image):
        raise UserError(
            f"params.yaml: kubeflow.images: {image} is not pinned by digest, which kubeflow.digests_only asks for; "
            "write NAME@sha256:DIGEST."
        )
    return image


def _resources(own: dict[str, Any], task: TaskSettings) -> dict[str, Any]:
    """Return a container's resources; KFP reads the older fields, numbers, only where these are not there."""
    fields = {"Cpu": (task.cpu, task.cpu_limit), "Memory": (task.memory, task.memory_limit)}
    resources = dict(own)
    for name, values in fields.items():
        for kind, value in zip(("Request", "Limit"), values, strict=True):
            if value is not None:
                resources.pop(f"{name.lower()}{kind}", None)
                resources[f"resource{name}{kind}"] = value
    if task.gpus:
        resources["accelerator"] = {"resourceCount": str(task.gpus), "resourceType": task.gpu_type}
    return resources


def _retries(task: TaskSettings) -> dict[str, Any]:
    return {
        "backoffDuration": f"{task.backoff_seconds}s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "3600s",
        "maxRetryCount": task.retries,
    }


def _on_kubernetes(task: TaskSettings) -> dict[str, Any]:
    """Return the executor's part of the platform's spec, as kfp-kubernetes writes it to a task."""
    from kfp import kubernetes

    one = SimpleNamespace(platform_config={})
    for secret in task.secrets:
        for variable, key in secret.environment.items():  # one key may stand in two variables
            kubernetes.use_secret_as_env(one, secret.secret, {key: variable})
    for claim in task.claims:
        kubernetes.mount_pvc(one, claim.claim, claim.path)
    for toleration in task.tolerations:
        kubernetes.add_toleration(one, toleration.key, toleration.operator, toleration.value, effect=toleration.effect)
    for label, value in task.node_selector.items():
        kubernetes.add_node_selector(one, label, value)
    if task.run_as_user is not None or task.run_as_group is not None or task.run_as_non_root:
        kubernetes.set_security_context(one, task.run_as_user, task.run_as_group, task.run_as_non_root or None)
    if task.timeout_seconds is not None:
        kubernetes.set_timeout(one, task.timeout_seconds)
    if task.pull_secrets:
        kubernetes.set_image_pull_secrets(one, list(task.pull_secrets))
    if task.pull_policy is not None:
        kubernetes.set_image_pull_policy(one, task.pull_policy)
    config: dict[str, Any] = one.platform_config.get("kubernetes", {})
    return config


def _within(value: dict[str, Any], *path: str) -> dict[str, Any]:
    for name in path:
        value = value.setdefault(name, {})
    return value
