"""KServe's InferenceService: ``canaryTrafficPercent`` in Knative mode, ``spec.canary`` in Standard mode (0.21)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serm.errors import UserError
from serm.rollout.decision import Health
from serm.rollout.split import Variant
from serm.rollout.traffic.backend import NotReady
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
        spec = _mapping(found.get("spec"), self._path)
        predictor = spec.get("predictor") or {}
        if knative:
            if "canary" in spec:
                raise UserError(f"{self._path}: spec.canary is ignored in Knative mode; take it away.")
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

    def health(self) -> Mapping[Variant, Health] | None:
        """Return None: the API server knows nothing of requests.

        Raises:
            NotReady: the canary is not ready, so that the cluster gives it no traffic whatever its share.
        """
        found = self._cluster.read(self._path)
        if not self._knative(found):
            name = (self._canary(found).get("predictor") or {}).get("name")
            told = [one for one in (found.get("status") or {}).get("canaryStatuses") or [] if one.get("name") == name]
            if told and not told[0].get("ready"):
                raise NotReady(f"{self._path}: the canary {name!r} is not ready, so the cluster sends it no request.")
        return None

    def _knative(self, found: Mapping[str, Any]) -> bool:
        status = (found.get("status") or {}).get("deploymentMode")
        mode = (found["metadata"].get("annotations") or {}).get(_MODE) or status
        if mode and status and (mode in _KNATIVE) != (status in _KNATIVE):
            raise UserError(
                f"{self._path}: its annotation says {mode!r} and KServe runs it as {status!r}, so a canary may be "
                "ignored; a service's mode does not change: delete it and apply it again."
            )
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
                f"{self._path}: spec.canary must hold the challenger alone; apply the deploy step's manifest, to a "
                "KServe that knows spec.canary (0.21)."
            )
        predictor = canaries[0].get("predictor") or {}
        if predictor.get("name") in (None, (found["spec"].get("predictor") or {}).get("name")):
            raise UserError(
                f"{self._path}: the canary needs a name of its own, its cycle's, and not the predictor's; apply the "
                "deploy step's manifest."
            )
        return canaries[0]


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: has no spec; apply the deploy step's manifest.")
    return value
