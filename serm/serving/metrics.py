"""What operators see beside KServe's own metrics: where the time goes, how full batches are, what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from serm.relevance.known import KnownTexts
    from serm.serving.batching import Batcher

_TENTHS = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
"""Ten bounds a decade (ISO 3's R10): a percentile is known to a quarter, so that rollout tells 2 times as slow from
1.2 times."""
_SECONDS = (*(float(f"{one}e{power}") for power in (-3, -2, -1, 0) for one in _TENTHS), 10.0, 20.0, 30.0)
STAGES = Histogram(
    "serm_request_stage_seconds",
    "A request's time in the stages queue, tokenise, model (the batches that it was in) and total",
    ["model_name", "stage"],
    buckets=_SECONDS,
)
BATCH_REQUESTS = Histogram("serm_batch_requests", "Requests in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
BATCH_TOKENS = Histogram("serm_batch_tokens", "Tokens in a batch", buckets=tuple(2**power for power in range(4, 18)))
PADDING = Counter("serm_batch_padding_tokens", "Places in batches that held no token")
DROPPED = Counter("serm_requests_dropped", "Requests without an answer: busy, late or gone", ["model_name", "reason"])
SWAPS = Counter(
    "serm_model_swaps",
    "Models read again: swapped, or kept as they were for the new one is no good",
    ["model_name", "outcome"],
)
_WAITING = Gauge("serm_queue_pairs", "Pairs taken and not scored yet")
_CACHE = {
    "bytes": Gauge("serm_document_cache_bytes", "Memory for texts that need not be computed again"),
    "texts": Gauge("serm_document_cache_texts", "Texts that need not be computed again"),
    "hits": Gauge("serm_document_cache_hits", "Texts that were asked for and known"),
    "misses": Gauge("serm_document_cache_misses", "Texts that were asked for and not known"),
    "stored": Gauge("serm_document_cache_stored", "Texts that were read from a file of --states"),
}


def requested(name: str, seconds: Mapping[str, float]) -> None:
    """Note the stages of a request of the model ``name``."""
    for stage, took in seconds.items():
        STAGES.labels(name, stage).observe(took)


def batched(requests: int, tokens: int, slots: int) -> None:
    """Note a batch, whose tokens were computed in ``slots`` places."""
    BATCH_REQUESTS.observe(requests)
    BATCH_TOKENS.observe(tokens)
    PADDING.inc(max(0, slots - tokens))


def watch(batcher: Batcher, known: KnownTexts) -> None:
    """Show the queue and the cache of this process."""
    _WAITING.set_function(lambda: batcher.waiting)
    _CACHE["bytes"].set_function(lambda: known.bytes)
    _CACHE["texts"].set_function(lambda: len(known))
    _CACHE["hits"].set_function(lambda: known.hits)
    _CACHE["misses"].set_function(lambda: known.misses)
    _CACHE["stored"].set_function(lambda: known.stored)
