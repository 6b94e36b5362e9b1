"""Gateway API's HTTPRoute: by weight each request's Service is drawn anew, by the header of its user's group it is not.

A rule whose matches have ``x-serm-group: challenger`` gets all of them to the challenger while it has a share, and to
the champion at 0 %, whatever a search service that has not read the new share yet still sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serm.errors import UserError
from serm.rollout.assignment import GROUP_HEADER
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
    """The backend. Rules that do not name both Services stay as they are."""

    def __init__(self, cluster: Any, path: str, options: RouteOptions) -> None:
        super().__init__(cluster, path)
        self._names = (options.champion, options.challenger)

    def percent(self, found: Mapping[str, Any]) -> int:
        """Return the challenger's share of the weights, which must be the same whole percentage in every rule.

        Where all requests go by the header, the annotation has the share that groups are drawn by.
        """
        split = self._split(found)
        if not split:
            raise UserError(f"{self._path}: no rule sends to both {self._names[0]!r} and {self._names[1]!r}.")
        self._require_groups(found)
        exact = {self._share(rule) for rule in split if _groups(rule)}
        shares = {self._share(rule) for rule in split if not _groups(rule)}
        if not shares:
            shares = {0} if exact == {0} else {self._noted(found).get("percent")}
        share = next(iter(shares))
        if len(shares) > 1 or type(share) is not int or not 0 <= share <= 100 or exact - {100 if share else 0}:
            raise UserError(
                f"{self._path}: its rules' weights are no one whole percentage, with all of {GROUP_HEADER}: challenger "
                "to the challenger above 0 %; set them alike by hand."
            )
        return share

    def change(self, found: Mapping[str, Any], percent: int) -> dict[str, Any]:
        """Return all rules, those that name both Services with new weights; a merge patch replaces the whole list."""
        split = [id(rule) for rule in self._split(found)]
        rules = found["spec"]["rules"]
        return {"rules": [self._weighted(rule, percent) if id(rule) in split else rule for rule in rules]}

    def _weighted(self, rule: Mapping[str, Any], percent: int) -> dict[str, Any]:
        share = (100 if percent else 0) if _groups(rule) else percent
        weights = dict(zip(self._names, (100 - share, share), strict=True))
        refs = rule["backendRefs"]
        return {
            **rule,
            "backendRefs": [
                {**one, "weight": weights[one["name"]]} if one.get("name") in weights else one for one in refs
            ],
        }

    def _split(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [rule for rule in _rules(found) if set(self._names) <= _services(rule)]

    def _require_groups(self, found: Mapping[str, Any]) -> None:
        """Refuse a route that knows the header and would all the same draw who answers a request that bears it.

        Raises:
            UserError: a group's rule is missing beside a rule by weight, or names other Services than its own.
        """
        by_group: dict[str, list[Any]] = {"challenger": [], "control": [], "champion": []}
        for rule in _rules(found):
            for match in rule.get("matches") or [{}]:
                if (group := _group(match)) not in by_group:
                    continue
                wanted = set(self._names) if group == "challenger" else {self._names[0]}
                if _services(rule) != wanted or not _groups(rule):
                    raise UserError(
                        f"{self._path}: the rule for {GROUP_HEADER}: {group} must send to "
                        f"{' and '.join(sorted(wanted))}, and match nothing without that header."
                    )
                by_group[group].append(_bare(match))
        if not any(by_group.values()):
            return
        drawn = [rule for rule in self._split(found) if not _groups(rule)]
        for match in (one for rule in drawn for one in rule.get("matches") or [{}]):
            if missing := [group for group, bare in by_group.items() if _bare(match) not in bare]:
                raise UserError(
                    f"{self._path}: requests with {GROUP_HEADER}: {missing[0]} would go by weight; add a rule whose "
                    f"match is {_bare(match)} and that header."
                )

    def _share(self, rule: Mapping[str, Any]) -> int | None:
        """Return the challenger's percentage of a rule; None where it is no whole one, or a third Service has some."""
        weights = {one.get("name"): one.get("weight", 1) for one in rule["backendRefs"]}
        total = sum(weights.values())
        champion, challenger = (weights[name] for name in self._names)
        if not total or champion + challenger != total or 100 * challenger % total:
            return None
        return int(100 * challenger // total)


def _rules(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (found.get("spec") or {}).get("rules") or []


def _services(rule: Mapping[str, Any]) -> set[Any]:
    return {one.get("name") for one in rule.get("backendRefs") or []}


def _groups(rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule goes by the header, in each of its matches."""
    return all(_group(match) is not None for match in rule.get("matches") or [{}])


def _group(match: Mapping[str, Any]) -> str | None:
    """Return the group that a match asks for; None: it does not look at the header."""
    found = [one.get("value") for one in match.get("headers") or [] if _is_group(one)]
    return str(found[0]) if found else None


def _is_group(header: Mapping[str, Any]) -> bool:
    return str(header.get("name")).lower() == GROUP_HEADER and header.get("type", "Exact") == "Exact"


def _bare(match: Mapping[str, Any]) -> dict[str, Any]:
    """Return a match without the header and with its defaults: a longer path would win over any header."""
    rest = {name: value for name, value in match.items() if name not in ("path", "headers")}
    path = {"type": "PathPrefix", "value": "/", **(match.get("path") or {})}
    headers = [one for one in match.get("headers") or [] if not _is_group(one)]
    return {"path": path, **rest, **({"headers": headers} if headers else {})}
