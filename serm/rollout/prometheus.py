"""Requests, errors and latency of both models' servers, asked of Prometheus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from serm.errors import UserError
from serm.rollout.health import Health, Within
from serm.rollout.split import Variant
from serm.settings.rollout import ByVariant, PrometheusSettings

_VARIANTS: tuple[Variant, ...] = ("champion", "challenger")
_LONGEST_ANSWER = 1_000_000
_PERCENTILE = 0.95


def health(settings: PrometheusSettings, since: datetime, now: datetime, experiment: str = "") -> dict[Variant, Health]:
    """Return how both servers fared from ``since`` to ``now``.

    Raises:
        UserError: Prometheus does not answer, refuses a query, or a query gives more than one number, or no histogram.
    """
    seconds = max(60, math.ceil((now - since).total_seconds()))
    with httpx.Client(timeout=settings.timeout_seconds, trust_env=False) as client:

        def ask(query: str | ByVariant, variant: Variant) -> _Asked:
            text = query if isinstance(query, str) else str(getattr(query, variant))
            for name, value in (("variant", variant), ("window", f"{seconds}s"), ("experiment", experiment)):
                text = text.replace("{" + name + "}", value)
            return _Asked(settings.url, text, _series(client, settings.url, text, now))

        def of(variant: Variant) -> Health:
            total, errors = (round(ask(one, variant).number() or 0) for one in (settings.requests, settings.errors))
            within = ask(settings.latency, variant).histogram()
            # What failed was due, also where a dead server counted no request.
            return Health(max(total, errors), errors, _percentile(within), within)

        return {variant: of(variant) for variant in _VARIANTS}


@dataclass(frozen=True)
class _Asked:
    """A query and its answer."""

    url: str
    query: str
    series: list[tuple[dict[str, Any], float]]
    """Labels and value."""

    def number(self) -> float | None:
        """Return the one number that it gives; None where it gives none, or no finite one."""
        if len(self.series) > 1:
            raise UserError(
                f"{self.url}: {self.query!r} gives {len(self.series)} numbers, where one is wanted; sum them in the "
                "query."
            )
        value = self.series[0][1] if self.series else math.nan
        return value if math.isfinite(value) else None

    def histogram(self) -> Within:
        """Return upper bounds in milliseconds, rising, and the requests within each; nothing where it gives nothing."""
        try:
            bounds = sorted((1000 * float(labels["le"]), count) for labels, count in self.series)
        except (KeyError, TypeError, ValueError):
            bounds = [(0.0, 0.0)]
        if len({bound for bound, _ in bounds}) < len(bounds) or (bounds and bounds[-1][0] != math.inf):
            raise UserError(
                f"{self.url}: {self.query!r} gives no histogram; ask for "
                "`sum by (le) (increase(..._bucket[{window}]))`."
            )
        most, within = 0, []
        if not any(count > 0 for _, count in bounds):  # nan, or no request
            return ()
        for bound, count in bounds:  # what Prometheus extrapolates may fall by a little
            most = max(most, round(count) if math.isfinite(count) else 0)
            within.append((bound, most))
        return tuple(within)


def _percentile(within: Within) -> float | None:
    """Return the 95th percentile, as if requests were spread evenly in their bucket; None beyond the last bound."""
    total = within[-1][1] if within else 0
    low, below = 0.0, 0
    for bound, count in within:
        if total and count >= _PERCENTILE * total:
            found = low + (bound - low) * (_PERCENTILE * total - below) / (count - below)
            return found if math.isfinite(found) else None
        low, below = bound, count
    return None


def _series(client: httpx.Client, url: str, query: str, now: datetime) -> list[tuple[dict[str, Any], float]]:
    """Return the labels and the value of each series that a query gives."""
    try:
        answer = client.post(f"{url.rstrip('/')}/api/v1/query", data={"query": query, "time": f"{now.timestamp():.3f}"})
        found: Any = answer.json() if len(answer.content) <= _LONGEST_ANSWER else None
    except (httpx.HTTPError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{url}: Prometheus does not answer ({reason}); start it, or mend rollout.prometheus."
        ) from error
    try:
        if found["status"] != "success":
            raise UserError(f"{url}: Prometheus refuses {query!r}: {' '.join(str(found.get('error')).split())[:200]}.")
        return [(dict(one.get("metric", {})), float(one["value"][1])) for one in found["data"]["result"]]
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{url}: answers as no Prometheus does; mend rollout.prometheus.url.") from error
