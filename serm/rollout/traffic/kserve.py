"""KServe's InferenceService: ``canaryTrafficPercent`` in Knative mode, ``spec.canary`` in Standard mode (0.21)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic.backend import NotReady
from serm.rollout.traffic.kubernetes import ClusterOptions, client
from serm.rollout.traffic.object import ObjectTraffic
from serm.rollout.traffic.options import parse

_MODE = "serving.kserve.io/deploymentMode"
TAGS = "serving.kserve.io/enable-tag-routing"
"""The annotation with which KServe names the newest revision ``latest-SERVICE-predictor`` in Knative mode."""
_STANDARD, _KNATIVE = {"Standard", "RawDeployment"}, {"Knative", "Serverless"}


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[InferenceServiceTraffic]:
    """Yield the backend of an InferenceService."""
    with client(parse(ClusterOptions, options)) as cluster:
        yield InferenceServiceTraffic(cluster, path(namespace, service))


def path(namespace: str, service: str) -> str:
    """Return where the API server has an InferenceService."""
    return f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{service}"


class InferenceServiceTraffic(ObjectTraffic):
    """The backend; the mode is read from the object, and a field that its mode ignores is an error."""

    def percent(self, found: Mapping[str, Any]) -> int:
        """Return what the mode's own field says: nothing there gives the challenger nothing."""
        knative = _knative(found, self._path)
        spec = _mapping(found.get("spec"), self._path)
        predictor = spec.get("predictor") or {}
        if knative:
            if "canary" in spec:
                raise UserError(f"{self._path}: spec.canary is ignored in Knative mode; take it away.")
            value = _percent(found)
        else:
            if "canaryTrafficPercent" in predictor:
                raise UserError(f"{self._path}: canaryTrafficPercent is ignored in Standard mode; take it away.")
            value = _canary(found, self._path).get("trafficPercent", 0)
        if not isinstance(value, int) or not 0 <= value <= 100:
            raise UserError(f"{self._path}: a canary's traffic of {value!r} is no percentage.")
        return value

    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return the patch of the mode's own field; a merge patch replaces the whole list of canaries."""
        if _knative(found, self._path):
            return {"predictor": {"canaryTrafficPercent": percent}}
        return {"canary": [{**_canary(found, self._path), "trafficPercent": percent}]}

    def health(self) -> Mapping[Variant, Health] | None:
        """Return None: the API server knows nothing of requests.

        Raises:
            NotReady: the canary takes no request, whatever its share.
        """
        require_ready(self._cluster.read(self._path), self._path)
        return None

    def _note(self, experiment: str, percent: int) -> dict[str, Any]:
        """Return the experiment alone, as the deploy step writes it: KServe gives a service's annotations to its pods.

        One that changed with the share would start all pods anew at each step, and in Knative mode make a revision.
        """
        return {"experiment": experiment}


def require_ready(found: Mapping[str, Any], path: str) -> None:
    """Refuse an InferenceService whose canary takes no request, whatever its share.

    Knative's tag ``latest`` leads to the newest revision that is ready, so before the challenger's is it leads to the
    champion.

    Raises:
        NotReady: KServe says that it is not ready, or there is none.
        UserError: it has no canary that its mode would look at.
    """
    if not _knative(found, path):
        name = (_canary(found, path).get("predictor") or {}).get("name")
        told = [one for one in (found.get("status") or {}).get("canaryStatuses") or [] if one.get("name") == name]
        if told and not told[0].get("ready"):
            raise NotReady(f"{path}: the canary {name!r} is not ready, so the cluster sends it no request.")
        return
    status = ((found.get("status") or {}).get("components") or {}).get("predictor") or {}
    newest, ready, rolled_out = (status.get(f"latest{one}Revision") for one in ("Created", "Ready", "Rolledout"))
    if newest != ready:
        raise NotReady(f"{path}: the revision {newest!r} is not ready, so its requests go to {ready!r}.")
    if newest and newest == rolled_out and _percent(found) < 100:
        raise NotReady(
            f"{path}: its newest revision {newest!r} is the champion's, so there is no challenger; apply the deploy "
            "step's manifest after the champion's."
        )


def _percent(found: Mapping[str, Any]) -> Any:
    """Return the newest revision's share in Knative mode: without a canary's it has all."""
    return ((found.get("spec") or {}).get("predictor") or {}).get("canaryTrafficPercent", 100)


def _knative(found: Mapping[str, Any], path: str) -> bool:
    status = (found.get("status") or {}).get("deploymentMode")
    mode = (found["metadata"].get("annotations") or {}).get(_MODE) or status
    if mode and status and (mode in _KNATIVE) != (status in _KNATIVE):
        raise UserError(
            f"{path}: its annotation says {mode!r} and KServe runs it as {status!r}, so a canary may be "
            "ignored; a service's mode does not change: delete it and apply it again."
        )
    if mode in _KNATIVE:
        return True
    if mode in _STANDARD:
        return False
    raise UserError(
        f"{path}: its mode {mode!r} is neither Knative nor Standard, so a canary may be ignored; set the "
        f"annotation {_MODE}."
    )


def _canary(found: Mapping[str, Any], path: str) -> dict[str, Any]:
    canaries = found["spec"].get("canary")
    if not isinstance(canaries, list) or len(canaries) != 1 or not isinstance(canaries[0], dict):
        raise UserError(
            f"{path}: spec.canary must hold the challenger alone; apply the deploy step's manifest, to a "
            "KServe that knows spec.canary (0.21)."
        )
    predictor = canaries[0].get("predictor") or {}
    if predictor.get("name") in (None, (found["spec"].get("predictor") or {}).get("name")):
        raise UserError(
            f"{path}: the canary needs a name of its own, its cycle's, and not the predictor's; apply the "
            "deploy step's manifest."
        )
    return canaries[0]


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: has no spec; apply the deploy step's manifest.")
    return value
