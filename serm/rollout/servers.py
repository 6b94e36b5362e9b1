"""How both models' servers fare in the step in force: asked of Prometheus, or of the backend, which counts for ever.

A backend's totals hold what was before the step, such as an earlier challenger's errors, and a restart sets them to 0.
So the record keeps what they were at the last look, and adds what they grew by since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from serm.errors import UserError
from serm.rollout import prometheus
from serm.rollout.health import Health, Within
from serm.rollout.record import Record, Served
from serm.rollout.split import Variant
from serm.rollout.traffic import NotReady, Traffic


@dataclass(frozen=True)
class Fares:
    """What a look finds of the servers."""

    health: Mapping[Variant, Health] | None
    """Since the step began."""
    recent: Mapping[Variant, Health] | None
    """Since the last look; None where this is the step's first."""
    unread: tuple[str, ...]
    """Why they could not be asked."""
    served: dict[Variant, Served] | None
    unready_since: datetime | None
    """Both for the record."""


def look(record: Record, traffic: Traffic, now: datetime) -> Fares:
    """Return how the servers fare; what cannot be read is told, not raised."""
    unread: list[str] = []
    health, recent, served, unready = None, None, record.served, None
    before = record.decisions[-1].at if looks(record) else None
    try:
        if (totals := traffic.health()) is not None:
            served = {side: _grown((record.served or {}).get(side), one) for side, one in totals.items()}
            health = {
                side: _health(one.requests, one.errors, totals[side].p95_ms, totals[side].within)
                for side, one in served.items()
            }
            if before is not None and record.served is not None:
                known = record.served
                recent = {
                    side: _health(one.requests - known[side].requests, one.errors - known[side].errors)
                    for side, one in served.items()
                }
    except NotReady as error:
        unready = record.unready_since or now
        unread.append(str(error))
    except UserError as error:
        unready = record.unready_since
        unread.append(str(error))
    if (asked := record.settings.prometheus) is not None:
        try:
            health = prometheus.health(asked, record.stages[-1].since, now, record.experiment)
            recent = prometheus.health(asked, before, now, record.experiment) if before is not None else None
        except UserError as error:
            health = recent = None
            unread.append(str(error))
    return Fares(health, recent, tuple(unread), served, unready)


def looks(record: Record) -> int:
    """Return how many looks there were in the step in force."""
    return sum(one.at > record.stages[-1].since for one in record.decisions)


def begin(traffic: Traffic) -> dict[Variant, Served] | None:
    """Return what a step begins with; None where the backend cannot be asked, which the next look is told."""
    try:
        totals = traffic.health()
    except UserError:
        return None
    return {side: _grown(None, one) for side, one in totals.items()} if totals is not None else None


def _health(requests: int, errors: int, p95_ms: float | None = None, within: Within = ()) -> Health:
    """Return a server's health; what was tried thrice, or no server took, may count as more failures than requests."""
    return Health(max(requests, errors), errors, p95_ms, within)


def _grown(before: Served | None, total: Health) -> Served:
    """Return what a server did by now; totals that are smaller than they were began anew, at 0."""
    counted = total.requests, total.errors
    if before is None:
        return Served(counted=counted)
    anew = any(now < then for now, then in zip(counted, before.counted, strict=True))
    requests, errors = counted if anew else (counted[0] - before.counted[0], counted[1] - before.counted[1])
    return Served(requests=before.requests + requests, errors=before.errors + errors, counted=counted)
