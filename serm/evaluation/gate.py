"""The gate before promotion: passed, failed or inconclusive, each with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from serm.evaluation.compare import Comparison
from serm.settings import EvaluationSettings

Result = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """The gate's result and why, one sentence for each rule."""

    result: Result
    reasons: tuple[str, ...]


def decide(rolling: Comparison | None, frozen: Comparison | None, settings: EvaluationSettings) -> Verdict:
    """Decide on the challenger from NDCG@``gate.cutoff`` over all pairs of both test sets.

    It passes when it is significantly better on the rolling set, by more than ``min_gain``, and when its loss on
    the frozen set is within ``max_frozen_loss`` even at the unlucky end of the interval (non-inferiority). It fails
    when it is significantly worse on the rolling set, or when even the lucky end of the frozen interval loses more
    than the margin. Anything else, missing data (None) included, is inconclusive.
    """
    rules = [_gain(rolling, settings), _loss(frozen, settings)]
    results = {result for result, _ in rules}
    if "failed" in results:
        result: Result = "failed"
    else:
        result = "passed" if results == {"passed"} else "inconclusive"
    return Verdict(result, tuple(reason for _, reason in rules))


def _gain(rolling: Comparison | None, settings: EvaluationSettings) -> tuple[Result, str]:
    if rolling is None or (lack := _lack(rolling, settings)):
        return "inconclusive", f"Rolling set: {'no data' if rolling is None else lack}."
    found = f"Rolling set: {_change(rolling, settings)}, p = {rolling.p:.4f}"
    if rolling.p >= settings.alpha:
        return "inconclusive", f"{found}, not below {settings.alpha:g}: no evidence of a difference."
    if rolling.difference < 0:
        return "failed", f"{found}: significantly worse."
    if rolling.difference <= settings.gate.min_gain:
        return "inconclusive", f"{found}: better, but not by more than min_gain {settings.gate.min_gain:g}."
    return "passed", f"{found}: significantly better, by more than min_gain {settings.gate.min_gain:g}."


def _loss(frozen: Comparison | None, settings: EvaluationSettings) -> tuple[Result, str]:
    if frozen is None or (lack := _lack(frozen, settings)):
        return "inconclusive", f"Frozen set: {'no data' if frozen is None else lack}."
    margin = settings.gate.max_frozen_loss
    found = f"Frozen set: {_change(frozen, settings)}"
    if frozen.high < -margin:
        return "failed", f"{found}: the loss is confidently above max_frozen_loss {margin:g}."
    if frozen.low < -margin:
        return "inconclusive", f"{found}: a loss above max_frozen_loss {margin:g} cannot be ruled out."
    return "passed", f"{found}: any loss is within max_frozen_loss {margin:g}."


def _lack(comparison: Comparison, settings: EvaluationSettings) -> str:
    """Say what is missing for a decision, or return an empty string."""
    if comparison.n < settings.gate.min_queries:
        return f"{comparison.n} queries, fewer than min_queries {settings.gate.min_queries}"
    if not all(map(isfinite, (comparison.difference, comparison.low, comparison.high, comparison.p))):
        return "the measures are not finite numbers"
    return ""


def _change(comparison: Comparison, settings: EvaluationSettings) -> str:
    return (
        f"{settings.gate_measure} {comparison.champion:.4f} -> {comparison.challenger:.4f} "
        f"over {comparison.n} queries ({comparison.difference:+.4f}, "
        f"{1 - settings.alpha:.0%} interval {comparison.low:+.4f} to {comparison.high:+.4f})"
    )
