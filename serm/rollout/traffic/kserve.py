"""KServe's InferenceService: ``canaryTrafficPercent`` in Knative mode, ``spec.canary`` in Standard mode (0.21)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serm.errors import UserError
from serm.rollout.traffic.kubernetes import ClusterOptions, client
from serm.rollout.traffic.object import ObjectTraffic
from serm.rollout.traffic.options import parse

_MODE = "serving.kserve.io/deploymentMode"
_STANDARD, _KNATIVE = {"Standard", "RawDeployment"}, {"Knative", "Serverless"}


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[InferenceServiceTraffic]:
    """Yield the backend of an InferenceService."""
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{service}"
    with client(parse(ClusterOptions, options)) as cluster:
        yield InferenceServiceTraffic(cluster, path)


class InferenceServiceTraffic(ObjectTraffic):
    """The backend; the mode is read from the object, and a field that its mode ignores is an error."""

    def percent(self, found: Mapping[str, Any]) -> int:
        """Return what the mode's own field says: nothing there gives the challenger nothing."""
        knative = self._knative(found)
        predictor = _mapping(found.get("spec"), self._path).get("predictor") or {}
        if knative:
            value = predictor.get("canaryTrafficPercent", 100)  # without it the newest revision has all
        else:
            if "canaryTrafficPercent" in predictor:
                raise UserError(f"{self._path}: canaryTrafficPercent is ignored in Standard mode; take it away.")
            value = self._canary(found).get("trafficPercent", 0)
        if not isinstance(value, int) or not 0 <= value <= 100:
            raise UserError(f"{self._path}: a canary's traffic of {value!r} is no percentage.")
        return value

    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return the patch of the mode's own field; a merge patch replaces the whole list of canaries."""
        if self._knative(found):
            return {"predictor": {"canaryTrafficPercent": percent}}
        return {"canary": [{**self._canary(found), "trafficPercent": percent}]}

    def _knative(self, found: Mapping[str, Any]) -> bool:
        status = found.get("status") or {}
        mode = (found["metadata"].get("annotations") or {}).get(_MODE) or status.get("deploymentMode")
        if mode in _KNATIVE:
            return True
        if mode in _STANDARD:
            return False
        raise UserError(
            f"{self._path}: its mode {mode!r} is neither Knative nor Standard, so a canary may be ignored; set the "
            f"annotation {_MODE}."
        )

    def _canary(self, found: Mapping[str, Any]) -> dict[str, Any]:
        canaries = found["spec"].get("canary")
        if not isinstance(canaries, list) or len(canaries) != 1 or not isinstance(canaries[0], dict):
            raise UserError(
                f"{self._path}: spec.canary must hold the challenger alone; apply the deploy step's manifest."
            )
        return canaries[0]


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: has no spec; apply the deploy step's manifest.")
    return value
