"""The section ``evaluation`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from serm.settings.section import Count, Section


class EvaluationSettings(Section):
    """Measures and the promotion gate."""

    cutoffs: tuple[Count, ...] = (1, 5, 10)
    families: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Language family -> its locales; a locale in none of them counts as ``other``."""
    permutations: Annotated[int, Field(ge=100)] = 10000
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    gate_cutoff: Count = 10
    min_gain: float = 0.0
    """Gain in mean NDCG on the rolling set that the challenger must exceed, with p < alpha."""
    max_frozen_loss: Annotated[float, Field(ge=0)] = 0.01
    """Loss in mean NDCG on the frozen set that still passes."""
    min_queries: Count = 50
    """Queries that a test set needs before the gate believes it."""
    seed: int = 23

    @model_validator(mode="after")
    def _gated(self) -> EvaluationSettings:
        if self.gate_cutoff not in self.cutoffs:
            raise ValueError(f"gate_cutoff {self.gate_cutoff} is not one of cutoffs {self.cutoffs}")
        return self
