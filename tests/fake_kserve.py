"""What KServe and Knative make of an InferenceService in Knative mode, as KServe's source has it (August 2026).

``ksvc_reconciler.go``: annotations of the service go into the revision's template; with a canary's share and a revision
that was rolled out before, that one gets the rest, under the tag ``prev``; ``latest`` is tagged if the annotation says
so. ``inference_service_status.go``: who gets all is rolled out. Knative: ``latestRevision`` leads to the newest of the
revisions that are ready, and each tag has a host of its own.
"""

from __future__ import annotations

import copy
import json
from typing import Any

#: Not given to revisions, whatever the service's annotations.
_KEPT = ("autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/max-scale")


class Knative:
    """The revisions of one service."""

    def __init__(self) -> None:
        self.revisions: list[str] = []
        """Each one's template, in order."""
        self.status: dict[str, Any] = {}

    def reconcile(self, service: dict[str, Any], ready: bool = True) -> dict[str, Any]:
        """Return the service with its status; ``ready``: whether a revision that is made now becomes ready."""
        predictor = copy.deepcopy(service["spec"]["predictor"])
        share = predictor.pop("canaryTrafficPercent", None)
        annotations = {k: v for k, v in service["metadata"].get("annotations", {}).items() if k not in _KEPT}
        template = json.dumps([predictor, annotations], sort_keys=True)
        if not self.revisions or self.revisions[-1] != template:
            self.revisions.append(template)
            self.status["latestCreatedRevision"] = f"r{len(self.revisions)}"
            if ready:
                self.status["latestReadyRevision"] = f"r{len(self.revisions)}"
        for _ in range(3):  # what was rolled out is seen by the next reconciliation
            newest, before = self.status.get("latestReadyRevision"), self.status.get("latestRolledoutRevision")
            split = share is not None and before
            tag = {"tag": "latest"} if annotations.get("serving.kserve.io/enable-tag-routing") == "true" else {}
            traffic = [{"latestRevision": True, "revisionName": newest, "percent": share if split else 100, **tag}]
            if split and share < 100:
                traffic.append({"latestRevision": False, "revisionName": before, "percent": 100 - share, "tag": "prev"})
            earlier = self.status.get("previousRolledoutRevision")
            if traffic[0]["percent"] == 100 and before != newest:
                self.status |= {"latestRolledoutRevision": newest, "previousRolledoutRevision": before}
            elif before == newest == self.status["latestCreatedRevision"] and split and share < 100 and earlier:
                self.status["latestRolledoutRevision"] = earlier  # rolled back from 100 %
            for one in traffic:
                one["url"] = f"http://{one['tag']}-relevance-predictor.search" if "tag" in one else ""
            self.status["traffic"] = traffic
        return {**service, "status": {"deploymentMode": "Knative", "components": {"predictor": dict(self.status)}}}

    def leads_to(self, host: str) -> dict[str, int]:
        """Revision -> percent, of the requests to a host; nothing where the cluster knows no such name."""
        name = host.split(".")[0]
        if name == "relevance-predictor":
            found: dict[str, int] = {}
            for one in self.status["traffic"]:
                found[one["revisionName"]] = found.get(one["revisionName"], 0) + one["percent"]
            return {revision: percent for revision, percent in found.items() if percent}
        tagged = [
            one["revisionName"] for one in self.status["traffic"] if f"{one.get('tag')}-relevance-predictor" == name
        ]
        return dict.fromkeys(tagged, 100)
