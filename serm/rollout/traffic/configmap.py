"""A ConfigMap that holds the experiment's file, which the transformers of a cluster mount. It splits by user.

The kubelet brings a change into a mounted ConfigMap within a minute or so; the transformers see it and read it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic import kserve
from serm.rollout.traffic.backend import State
from serm.rollout.traffic.kubernetes import Cluster, ClusterOptions, client
from serm.rollout.traffic.object import ObjectTraffic
from serm.rollout.traffic.options import parse
from serm.rollout.traffic.transformer import require_groups


class ConfigMapOptions(ClusterOptions):
    """``rollout.traffic_options`` where ``rollout.traffic`` is configmap."""

    configmap: str = "serm-experiment"
    """The ConfigMap's name, in the InferenceService's namespace (``manifests/base/experiment.yaml``)."""
    key: str = "experiment.yaml"
    """Its key, the file that the transformer's ``--experiment`` names; fields other than name and percent stay."""
    canary: bool = False
    """Whether the challenger is the canary of the InferenceService ``serving.name``: one that is not ready holds the
    ramp, and goes back. It takes the right to get the InferenceService."""


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[ConfigMapTraffic]:
    """Yield the backend of a ConfigMap."""
    chosen = parse(ConfigMapOptions, options)
    with client(chosen) as cluster:
        path = f"/api/v1/namespaces/{namespace}/configmaps/{chosen.configmap}"
        yield ConfigMapTraffic(cluster, path, chosen.key, kserve.path(namespace, service) if chosen.canary else None)


class ConfigMapTraffic(ObjectTraffic):
    """The backend; the experiment's name stands in the file itself, so that it needs no annotation."""

    def __init__(self, cluster: Cluster, path: str, key: str, service: str | None) -> None:
        super().__init__(cluster, path)
        self._key, self._service = key, service

    def health(self) -> Mapping[Variant, Health] | None:
        """Return None: the API server knows nothing of requests.

        Raises:
            NotReady: the canary takes no request, where it is looked at.
        """
        if self._service is not None:
            kserve.require_ready(self._cluster.read(self._service), self._service)
        return None

    def percent(self, found: Mapping[str, Any]) -> int:
        """Return what the file says; without a percentage the challenger has nothing."""
        value = self._content(found).get("percent", 0)
        if type(value) not in (int, float) or not 0 <= value <= 100 or value != int(value):
            raise UserError(f"{self._path}: {self._key}: a percent of {value!r} is no whole percentage; mend it.")
        return int(value)

    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return the file's content with another percentage."""
        return {**self._content(found), "percent": percent}

    def _patch(self, found: Mapping[str, Any], experiment: str, percent: int) -> dict[str, Any]:
        content = {**self.change(found, percent), "name": experiment}
        require_groups(content, f"{self._path}: {self._key}")
        return {"data": {self._key: yaml.safe_dump(content, allow_unicode=True)}}

    def _state(self, found: Mapping[str, Any]) -> State:
        name = str(self._content(found).get("name", ""))
        return State(name, self.percent(found), str(found["metadata"].get("resourceVersion", "")))

    def _content(self, found: Mapping[str, Any]) -> dict[str, Any]:
        text = (found.get("data") or {}).get(self._key)
        try:
            content = yaml.safe_load(text) if isinstance(text, str) else None
        except yaml.YAMLError as error:
            raise UserError(f"{self._path}: {self._key}: {' '.join(str(error).split())[:200]}; mend it.") from error
        if not isinstance(content, dict):
            raise UserError(f"{self._path}: {self._key} holds no experiment; expected name and percent.")
        return content
