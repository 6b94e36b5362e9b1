"""The InferenceService that serves the champion, with the challenger as its canary."""

from __future__ import annotations

import json
from typing import Any

import yaml

from serm.relevance.location import parts
from serm.rollout.traffic.kserve import TAGS
from serm.rollout.traffic.kubernetes import ANNOTATION
from serm.settings import Settings

#: The ServingRuntime that runs ``serm.serving.predictor`` (manifests/base/servingruntime.yaml).
RUNTIME = "serm-relevance"
_MODES = {
    "knative": {"serving.kserve.io/deploymentMode": "Knative", TAGS: "true"},
    "standard": {"serving.kserve.io/deploymentMode": "Standard"},
}


def inference_service(settings: Settings, percent: int) -> dict[str, Any]:
    """Return the InferenceService (serving.kserve.io/v1beta1) that gives the challenger ``percent`` % of the traffic.

    Standard mode names both models: the champion is the predictor and the challenger a canary beside it
    (``spec.canary``, KServe 0.20 or later, which splits traffic from 0.21 on; ``canaryTrafficPercent`` is silently
    ignored there). The canary has its cycle's name, since a promotion gives that name to the predictor for good, and
    one replica even at 0 %, so that it is up and can be tried before a user sees it. Knative mode names the challenger
    only: it becomes the new revision with ``canaryTrafficPercent``, and the revision rolled out before, the champion's,
    keeps the rest; KServe's tag names the new one, so that a transformer can send it exactly the users who are its.

    Raises:
        ValueError: ``percent`` is not in 0 to 100, which no schema checks in Knative mode.
        UserError: ``serving.storage_uri`` or ``serving.champion_uri`` is an address that could lead elsewhere.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must be 0 to 100, got {percent}")
    serving, tag = settings.serving, settings.cycle.name
    arguments = serving.predictor.arguments()
    challenger = _predictor(serving.storage_uri.replace("{tag}", tag), arguments)
    spec: dict[str, Any]
    if serving.mode == "knative":
        spec = {"predictor": {**challenger, "canaryTrafficPercent": percent}}
    else:
        spec = {
            # A canary may not ask for more replicas than the predictor beside it.
            "predictor": {**_predictor(serving.champion_uri.replace("{tag}", tag), arguments), "minReplicas": 1},
            "canary": [{"predictor": {**challenger, "name": tag, "minReplicas": 1}, "trafficPercent": percent}],
        }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": serving.name,
            "namespace": serving.namespace,
            "labels": {"app.kubernetes.io/part-of": "serm"},
            "annotations": {
                "serm/cycle": tag,
                ANNOTATION: json.dumps({"experiment": tag}),
                **_MODES[serving.mode],
            },
        },
        "spec": spec,
    }


def as_yaml(manifest: dict[str, Any]) -> str:
    """Return ``manifest`` as YAML, keys in their order."""
    return yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)


def _predictor(storage_uri: str, arguments: list[str]) -> dict[str, Any]:
    parts(storage_uri)
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "model": {
            "name": "kserve-container",
            "modelFormat": {"name": RUNTIME},
            "runtime": RUNTIME,
            "storageUri": storage_uri,
            # KServe puts them behind the runtime's own.
            **({"args": list(arguments)} if arguments else {}),
            # As strict as Kubernetes' "restricted" Pod Security Standard, and without write access to the image.
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }
