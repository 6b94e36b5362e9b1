"""Gateway API's HTTPRoute: the weights of the champion's and the challenger's Service in each rule that names both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serm.errors import UserError
from serm.rollout.traffic.kubernetes import ClusterOptions, client
from serm.rollout.traffic.object import ObjectTraffic
from serm.rollout.traffic.options import parse


class RouteOptions(ClusterOptions):
    """``rollout.traffic_options`` where ``rollout.traffic`` is httproute."""

    route: str
    """The HTTPRoute's name."""
    champion: str
    """The Service that the champion stands behind."""
    challenger: str
    """The challenger's."""


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[RouteTraffic]:
    """Yield the backend of an HTTPRoute."""
    chosen = parse(RouteOptions, options)
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{chosen.route}"
    with client(chosen) as cluster:
        yield RouteTraffic(cluster, path, chosen)


class RouteTraffic(ObjectTraffic):
    """The backend. A rule that names only one of the two, such as one that matches a header, stays as it is."""

    def __init__(self, cluster: Any, path: str, options: RouteOptions) -> None:
        super().__init__(cluster, path)
        self._names = (options.champion, options.challenger)

    def percent(self, found: Mapping[str, Any]) -> int:
        """Return the challenger's share of the weights, which must be the same whole percentage in every rule."""
        shares = {self._share(rule) for rule in self._split(found)}
        if not shares:
            raise UserError(f"{self._path}: no rule sends to both {self._names[0]!r} and {self._names[1]!r}.")
        if len(shares) > 1 or None in shares:
            raise UserError(f"{self._path}: its rules' weights are no one whole percentage; set them alike by hand.")
        return next(share for share in shares if share is not None)

    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return all rules, those that name both Services with new weights; a merge patch replaces the whole list."""
        weights = dict(zip(self._names, (100 - percent, percent), strict=True))
        split = [id(rule) for rule in self._split(found)]
        return {
            "rules": [
                {
                    **rule,
                    "backendRefs": [
                        {**one, "weight": weights[one["name"]]} if one.get("name") in weights else one
                        for one in rule["backendRefs"]
                    ],
                }
                if id(rule) in split
                else rule
                for rule in found["spec"]["rules"]
            ]
        }

    def _split(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        rules = (found.get("spec") or {}).get("rules") or []
        return [
            rule for rule in rules if set(self._names) <= {one.get("name") for one in rule.get("backendRefs") or []}
        ]

    def _share(self, rule: Mapping[str, Any]) -> int | None:
        """Return the challenger's percentage of a rule; None where it is no whole one, or a third Service has some."""
        weights = {one.get("name"): one.get("weight", 1) for one in rule["backendRefs"]}
        total = sum(weights.values())
        champion, challenger = (weights[name] for name in self._names)
        if not total or champion + challenger != total or 100 * challenger % total:
            return None
        return int(100 * challenger // total)
