"""The section ``serving`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serm.settings.section import Count, Positive, Section, Seed


class ServingSettings(Section):
    """Serving and the canary."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")] = "relevance"
    """The InferenceService, a DNS label."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "search"
    canary_percent: Annotated[int, Field(ge=0, le=100)] = 10
    mode: Literal["knative", "standard"] = "standard"
    storage_uri: str = "dvc://{tag}/cycle/train/model"
    """Where KServe finds a cycle's challenger; ``{tag}`` is the cycle's git tag."""
    champion_uri: str = "dvc://{tag}/state/champion"
    """Where KServe finds the champion that the cycle's challenger is compared with."""
    requests: Count = 40
    """Requests of the window's users that the local canary answers (simulated users in the demo)."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Of those requests, in flight at once; the latency that ``max_p95_ms`` bounds is measured under it."""
    seed: Seed = 29
    """Draws those requests."""
    max_p95_ms: Positive = 5000.0
    """The challenger's 95th percentile over those requests, beyond which it gets no traffic; the default only finds a
    model that cannot be served at all."""
