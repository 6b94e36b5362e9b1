"""The section ``evaluation`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from serm.settings.section import Count, Positive, Section, Seed

Margin = Annotated[float, Field(ge=0, le=1)]
Slice = Annotated[str, Field(pattern=r"^(family|locale|traffic|query_age|document_age|pairs):.+$")]
"""A kind of slice and a value, as in evaluate.json: ``locale:de``."""


class GateSettings(Section):
    """The rules that a challenger must pass before it may be promoted."""

    cutoff: Count = 10
    """The gate reads NDCG at this cutoff; it is one of ``evaluation.cutoffs``."""
    min_queries: Count = 50
    """Queries that a test set needs before the gate believes it."""
    assumed_deviation: Positive = 0.13
    """Standard deviation of a query's difference in the gate measure, by which the evaluate step says, before it
    measures, whether the test sets can decide. In emoji worlds it lay between 0.09 and 0.17; evaluate.json has
    that of your last cycle under ``power``."""
    min_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Gain in mean NDCG on what is served for the rolling set that the challenger must exceed, with p < alpha. Below 0
    it is the loss that the interval must rule out, and no gain need be shown: for where users decide in a rollout."""
    max_frozen_loss: Margin = 0.01
    """Loss in mean NDCG on what is served for the frozen set that still passes."""
    max_pool_loss: Margin = 0.015
    """Loss in mean NDCG on the pool of the rolling set that still passes. 600 queries tell it from none."""
    min_slice_queries: Count = 30
    """Queries that a slice needs to be tested; below, intervals are too narrow and a test finds next to nothing."""
    max_slice_loss: Margin = 0.03
    """Loss in mean NDCG on a slice of either set, as served, that still passes; a confidently greater one fails."""
    slice_losses: dict[Slice, Margin] = Field(default_factory=dict)
    """Slice -> its own margin instead, for example ``locale:de: 0.01``."""
    max_calibration_loss: Margin = 0.02
    """How much the calibration error on what is served for the rolling set may grow."""
    max_size_mb: Positive = 1000.0
    """Of the challenger's files."""
    golden_requests: Count = 20
    """Test queries that the server that KServe runs scores with the challenger, each with its judged documents."""
    max_serving_difference: Annotated[float, Field(ge=0, le=3)] = 0.05
    """How far a served score may lie from the model's own, in grades. What is encoded beside a text moves a score of a
    sound server in bf16: by .016 at most in the demo's challengers."""


class EvaluationSettings(Section):
    """Measures, their uncertainty, and the promotion gate."""

    cutoffs: tuple[Count, ...] = (1, 5, 10)
    """The ranks k of NDCG@k."""
    precision_cutoffs: tuple[Count, ...] = (5,)
    """The ranks k of P@k."""
    relevant_grade: Annotated[int, Field(ge=1, le=3)] = 2
    """A document counts as relevant, for AP, RR and P@k, from this grade on."""
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 15
    """Bins of equal width over the predicted probability."""
    families: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Language family -> its locales; a locale in none of them counts as ``other``."""
    permutations: Annotated[int, Field(ge=100, le=1_000_000)] = 10000
    """Sign vectors of the randomisation test, and resamples of the bootstrap."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """The level of tests, and 1 less the confidence of intervals."""
    gate: GateSettings = GateSettings()
    seed: Seed = 23
    """Of the bootstrap, the tests and the shuffle of equal scores."""

    @model_validator(mode="after")
    def _gated(self) -> EvaluationSettings:
        if self.gate.cutoff not in self.cutoffs:
            raise ValueError(f"gate.cutoff {self.gate.cutoff} is not one of cutoffs {self.cutoffs}")
        return self

    @property
    def gate_measure(self) -> str:
        """The measure that the gate reads, such as ``NDCG@10``."""
        return f"NDCG@{self.gate.cutoff}"
