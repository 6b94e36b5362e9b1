"""What both Kubernetes backends do: the split is in one object, which names the experiment in an annotation."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic.backend import Conflict, State
from serm.rollout.traffic.kubernetes import ANNOTATION, Cluster


class ObjectTraffic(ABC):
    """The split as an object of the cluster has it."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        self._cluster = cluster
        self._path = path

    @abstractmethod
    def percent(self, found: Mapping[str, Any]) -> int:
        """Return the challenger's percentage that the object asks for, or raise a ``UserError``."""

    @abstractmethod
    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return the merge patch of the object's spec that asks for ``percent``."""

    def read(self) -> State:
        """Return the split that the object asks for."""
        return self._state(self._cluster.read(self._path))

    def set(self, experiment: str, percent: int, seen: State) -> State:
        """Patch the object, if the split is still as ``seen``; changes of others beside it (a status) do no harm."""
        for _ in range(3):
            found = self._cluster.read(self._path)
            now = self._state(found)
            if (now.experiment, now.percent) == (experiment, percent):
                return now  # by an earlier attempt whose answer was lost, or before
            if (now.experiment, now.percent) != (seen.experiment, seen.percent):
                raise Conflict.of(self._path, now, seen)
            try:
                then = self._state(
                    self._cluster.patch(self._path, self._patch(found, experiment, percent), now.version)
                )
            except Conflict:
                continue
            if (then.experiment, then.percent) != (experiment, percent):
                raise UserError(f"{self._path}: the cluster took the patch and shows {then.percent} %: it was ignored.")
            return then
        raise Conflict(f"{self._path}: others change it all the time; nothing was changed.")

    def patch(self, experiment: str, percent: int, seen: State) -> Mapping[str, Any]:
        """Return the merge patch."""
        return self._patch(self._cluster.read(self._path), experiment, percent)

    def health(self) -> Mapping[Variant, Health] | None:
        """Return None: the API server knows nothing of requests."""
        return None

    def _patch(self, found: Mapping[str, Any], experiment: str, percent: int) -> dict[str, Any]:
        return {
            "metadata": {"annotations": {ANNOTATION: json.dumps(self._note(experiment, percent))}},
            "spec": self.change(found, percent),
        }

    def _note(self, experiment: str, percent: int) -> dict[str, Any]:
        """Return what the annotation is to say, by which a search service draws its users' groups."""
        return {"experiment": experiment, "percent": percent}

    def _state(self, found: Mapping[str, Any]) -> State:
        experiment = str(self._noted(found).get("experiment", ""))
        return State(experiment, self.percent(found), str(found["metadata"].get("resourceVersion", "")))

    def _noted(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the annotation says."""
        try:
            noted = json.loads((found["metadata"].get("annotations") or {}).get(ANNOTATION) or "{}")
        except (ValueError, AttributeError, TypeError):
            noted = None
        if not isinstance(noted, dict):
            raise UserError(f"{self._path}: its annotation {ANNOTATION} is none of SERM's; take it away.")
        return noted
