"""Requests, errors and latency of both models' servers, asked of Prometheus."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import httpx

from serm.errors import UserError
from serm.rollout.decision import Health
from serm.rollout.split import Variant
from serm.settings.rollout import ByVariant, PrometheusSettings

_VARIANTS: tuple[Variant, ...] = ("champion", "challenger")
_LONGEST_ANSWER = 1_000_000


def health(settings: PrometheusSettings, since: datetime, now: datetime, experiment: str = "") -> dict[Variant, Health]:
    """Return how both servers fared from ``since`` to ``now``.

    Raises:
        UserError: Prometheus does not answer, refuses a query, or a query gives more than one number.
    """
    seconds = max(60, math.ceil((now - since).total_seconds()))
    with httpx.Client(timeout=settings.timeout_seconds, trust_env=False) as client:

        def ask(query: str | ByVariant, variant: Variant) -> float | None:
            text = query if isinstance(query, str) else str(getattr(query, variant))
            for name, value in (("variant", variant), ("window", f"{seconds}s"), ("experiment", experiment)):
                text = text.replace("{" + name + "}", value)
            return _number(client, settings.url, text, now)

        def of(variant: Variant) -> Health:
            total, errors = (round(ask(query, variant) or 0) for query in (settings.requests, settings.errors))
            p95 = ask(settings.p95_seconds, variant)
            # What failed was due, also where a dead server counted no request.
            return Health(max(total, errors), errors, None if p95 is None else 1000 * p95)

        return {variant: of(variant) for variant in _VARIANTS}


def _number(client: httpx.Client, url: str, query: str, now: datetime) -> float | None:
    """Return the one number that a query gives; None where it gives none, or no finite one."""
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
        series = found["data"]["result"]
        if len(series) > 1:
            raise UserError(
                f"{url}: {query!r} gives {len(series)} numbers, where one is wanted; sum them in the query."
            )
        value = float(series[0]["value"][1]) if series else math.nan
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise UserError(f"{url}: answers as no Prometheus does; mend rollout.prometheus.url.") from error
    return value if math.isfinite(value) else None
