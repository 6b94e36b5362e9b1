"""The section ``serving`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serm.settings.section import Count, Positive, Section, Seed, Share


class PredictorSettings(Section):
    """What one predictor takes, and keeps in memory; each is a flag of its command line too."""

    max_queue_pairs: Count = 1024
    """Pairs that may wait; a request beyond them is told to come again (429)."""
    max_request_pairs: Count = 10_000
    """Pairs of one request; more are refused (413). They are scored in parts, in turns with other requests."""
    max_text_characters: Annotated[int, Field(ge=64, le=32_768)] = 32_768
    """A query or a document is cut after this many characters before it is tokenised; no model reads more than the
    default."""
    max_body_mb: Annotated[int, Field(ge=1, le=4_096)] = 32
    """Of one request; a longer one is refused (413)."""
    batch_tokens: Annotated[int, Field(ge=64, le=100_000_000)] = 2048
    """Tokens of pairs, of however many requests, that are scored in one go."""
    deadline_seconds: Positive = 30.0
    """How long a request may wait for its scores; then it is dropped, and told so (503). A proxy's own limit, in the
    header ``x-envoy-expected-rq-timeout-ms``, counts where it is shorter."""
    document_cache_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    """Memory for what the lower layers make of documents and queries, so that a known one is not computed again."""
    access_log: Literal["none", "requests", "queries"] = "none"
    """A line of JSON for each request: without its texts, or with its queries, which are searchers' words."""

    def arguments(self) -> list[str]:
        """Return what differs from the defaults, as arguments of the predictor's command line."""
        changed = self.model_dump(exclude_defaults=True)
        return [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]


class TransformerSettings(Section):
    """What one transformer takes, and how it writes its query log; each is a flag of its command line too."""

    max_documents: Count = 1_000
    """Documents of one request; more are refused (413)."""
    max_query_characters: Annotated[int, Field(ge=1, le=32_768)] = 4_096
    """A query is cut after this many characters."""
    max_text_characters: Annotated[int, Field(ge=64, le=32_768)] = 32_768
    """So is a document's text that comes with a request."""
    max_body_mb: Annotated[int, Field(ge=1, le=4_096)] = 8
    """Of one request; a longer one is refused (413)."""
    judgment_weight: Share = 0.5
    """Of a pair's judged grade beside the model's score, by which it is ranked (``--judgments``). With 1 the judgments
    alone rank what they know, as suits people's; with half, labels of which one in five is wrong still gain
    (docs/does-it-evolve.md#what-is-asked-next)."""
    deadline_seconds: Positive = 5.0
    """How long the predictors may take for a request, both together; then the answer is 503."""
    log_queue_mb: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Of the query log that may wait to be written, and as much of CloudEvents to be sent; what comes beyond is lost,
    counted and told."""
    log_rotate_seconds: Positive = 300.0
    """After how long a file of the query log is finished, and may be read."""
    log_rotate_mb: Annotated[int, Field(ge=1, le=100_000)] = 128
    """After how much it is."""
    access_log: Literal["none", "requests"] = "none"
    """A line of JSON for each request, without its texts: those are in the query log."""


class ServingSettings(Section):
    """Serving and the canary."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")] = "relevance"
    """The InferenceService, a DNS label."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "search"
    """Kubernetes' namespace of the InferenceService."""
    canary_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """Traffic that the manifest asks for a challenger that passed the gate."""
    mode: Literal["knative", "standard"] = "standard"
    """KServe's deployment mode."""
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
    predictor: PredictorSettings = PredictorSettings()
    transformer: TransformerSettings = TransformerSettings()
