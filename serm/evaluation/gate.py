"""The gate before promotion: rules that each pass, fail or cannot tell, with a reason for a person and a machine.

A fourth result, ``error``, is of a trial that broke down: it says nothing of the challenger, and promotes nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from serm.evaluation.calibration import Calibration
from serm.evaluation.compare import KINDS, Comparison, SliceTest
from serm.evaluation.significance import detectable_beyond, holm
from serm.settings import EvaluationSettings

Result = Literal["error", "failed", "inconclusive", "passed"]
WORST_FIRST: tuple[Result, ...] = ("error", "failed", "inconclusive", "passed")

SETS = ("rolling", "frozen")
#: What the test queries must be sliced by, ``pairs`` being those that share a token with the query, or none.
SLICED = (*KINDS, "pairs")


@dataclass(frozen=True)
class Trust:
    """What the annotate step says of the bars of its panel of judges, a sentence each."""

    held: Sequence[str]
    """Those that hold the batch; empty if it may be used."""
    not_measured: Sequence[str]
    """Those that could not be measured."""


@dataclass(frozen=True)
class Answers:
    """What a server made of a golden batch with the challenger; where it was ``lost`` or ``refused``, no more is known.

    No time is in it: a time differs from run to run, and the verdict must not.
    """

    requests: int
    pairs: int
    difference: float = float("nan")
    """The largest difference of a served score (0 to 3) from the model's own."""
    refused: str = ""
    """What it answered in the place of scores."""
    lost: str = ""
    """Why no answer came: it crashed, or was never ready."""


@dataclass(frozen=True)
class GateInputs:
    """All that the gate decides on; what is None is missing, and then nothing passes."""

    rolling: Comparison | None
    """The gate measure over all queries of the rolling set, on what is served for them."""
    frozen: Comparison | None
    """The same of the frozen set."""
    pool: Comparison | None
    """The gate measure over all queries of the rolling set, on their pools."""
    slices: Sequence[SliceTest]
    """The gate measure on every slice of both sets, on what is served."""
    calibration: Calibration | None
    """On what is served for the rolling set."""
    trust: Trust | None
    answers: Answers | None
    size_mb: float | None
    """Of the challenger's files."""


@dataclass(frozen=True)
class Rule:
    """One rule's result: what was found (``value``), the limit it was held to, and on which slice, where one counts.

    A value that is not the same in every run, such as a time, is not here but in the step's figures.
    """

    rule: str
    result: Result
    reason: str
    value: float | None = None
    limit: float | None = None
    slice: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The worst of the rules' results, in the order ``WORST_FIRST``: ``passed`` only if all passed."""

    result: Result
    rules: tuple[Rule, ...]


def decide(inputs: GateInputs, settings: EvaluationSettings) -> Verdict:
    """Decide on the challenger; the limits are those of ``GateSettings``.

    Whatever is missing or not a finite number makes its rule inconclusive, so the gate cannot pass without it.
    """
    rules = (
        _rolling_gain(inputs.rolling, settings),
        _loss("frozen_loss", inputs.frozen, settings),
        _loss("pool_loss", inputs.pool, settings),
        *_slice_loss(inputs.slices, settings),
        _calibration_loss(inputs.calibration, settings),
        _panel(inputs.trust),
        _model_size(inputs.size_mb, settings),
        _serving(inputs.answers, settings),
    )
    return Verdict(min((rule.result for rule in rules), key=WORST_FIRST.index), rules)


def _rolling_gain(rolling: Comparison | None, settings: EvaluationSettings) -> Rule:
    """Pass a measured gain above ``min_gain`` that is significantly above 0; fail a significant loss.

    A ``min_gain`` below 0 is a margin of non-inferiority: no gain need be shown where the interval rules that loss out.
    """
    limit = settings.gate.min_gain
    if rolling is None or (lack := _lack(rolling, settings)):
        return Rule("rolling_gain", "inconclusive", "no data." if rolling is None else lack, limit=limit)
    found = f"{_change(rolling, settings)}, p = {rolling.p:.4f}"
    result: Result = "inconclusive"
    if rolling.p >= settings.alpha and limit < 0:
        if rolling.low >= limit:
            result, found = "passed", f"{found}: no gain is shown, and any loss is within {-limit:g}, as min_gain asks."
        else:
            found += f": no gain is shown, and a loss above {-limit:g} cannot be ruled out."
    elif rolling.p >= settings.alpha:
        found += f", not below {settings.alpha:g}: no evidence of a difference, which is not evidence of none"
        if isfinite(rolling.detectable):
            found += f": these queries find a true difference of {rolling.detectable:.4f} four times in five, smaller"
            found += " ones less often"
        found += "."
    elif rolling.difference < 0:
        result, found = "failed", f"{found}: significantly worse."
    elif rolling.difference <= limit:
        found += f": better, but not by more than min_gain {limit:g}."
    elif rolling.low > limit:
        result, found = "passed", f"{found}: significantly better, by more than min_gain {limit:g}."
    else:
        unsure = f"the gain measured is above min_gain {limit:g}, but the interval does not show that the true one is"
        result, found = "passed", f"{found}: significantly better; {unsure}."
    return Rule("rolling_gain", result, found, rolling.difference, limit)


def _loss(rule: Literal["frozen_loss", "pool_loss"], found: Comparison | None, settings: EvaluationSettings) -> Rule:
    """Non-inferiority: pass when even the unlucky end of the interval loses no more than the margin."""
    margin = settings.gate.max_frozen_loss if rule == "frozen_loss" else settings.gate.max_pool_loss
    if found is None or (lack := _lack(found, settings)):
        return Rule(rule, "inconclusive", "no data." if found is None else lack, limit=margin)
    result: Result = "inconclusive"
    if found.high < -margin:
        result, told = "failed", f"the loss is confidently above max_{rule} {margin:g}."
    elif found.low < -margin:
        told = f"a loss above max_{rule} {margin:g} cannot be ruled out."
    else:
        result, told = "passed", f"any loss is within max_{rule} {margin:g}."
    return Rule(rule, result, f"{_change(found, settings)}: {told}", -found.low, margin)


def _slice_loss(slices: Sequence[SliceTest], settings: EvaluationSettings) -> list[Rule]:
    """Fail each slice that is worse than its margin with confidence, Holm-adjusted over the slices of both sets."""
    name, limit = "slice_loss", settings.gate.max_slice_loss
    there = {(one.set, one.slice.partition(":")[0]) for one in slices}
    absent = [f"{of_set} by {kind}" for of_set in SETS for kind in SLICED if (of_set, kind) not in there]
    if absent:
        return [Rule(name, "inconclusive", f"No slices of {', '.join(absent)}.", limit=limit)]
    tested = [one for one in slices if one.tested]
    if not tested:
        least = settings.gate.min_slice_queries
        return [Rule(name, "inconclusive", f"No slice has min_slice_queries {least} queries.", limit=limit)]
    unknown = [one for one in tested if not all(map(isfinite, (one.p_worse, one.difference, one.detectable)))]
    if unknown:
        where = f"{unknown[0].set} {unknown[0].slice}"
        return [Rule(name, "inconclusive", f"{where}: the measures are not finite numbers.", limit=limit, slice=where)]
    adjusted = holm(np.array([one.p_worse for one in tested])).tolist()
    failed = [
        Rule(
            name,
            "failed",
            f"{one.set} {one.slice}: {settings.gate_measure} changed by {one.difference:+.4f} over {one.n} queries, "
            f"worse than its margin {one.margin:g} with confidence (Holm-adjusted p = {p:.4f}).",
            -one.difference,
            one.margin,
            f"{one.set} {one.slice}",
        )
        for one, p in zip(tested, adjusted, strict=True)
        if p < settings.alpha
    ]
    if failed:
        return failed
    worst = min(tested, key=lambda one: one.difference + one.margin)
    blind = sum(detectable_beyond(one.detectable, settings.alpha, len(tested)) > one.margin for one in tested)
    reason = (
        f"None of {len(tested)} slices is worse than its margin with confidence; the nearest is {worst.set} "
        f"{worst.slice}, {worst.difference:+.4f} over {worst.n} queries. {len(slices) - len(tested)} were too small to "
        f"be tested, or hold all queries; {blind} of the tested have too few to find a loss of twice their margin four "
        "times in five."
    )
    return [Rule(name, "passed", reason, -worst.difference, worst.margin, f"{worst.set} {worst.slice}")]


def _calibration_loss(found: Calibration | None, settings: EvaluationSettings) -> Rule:
    """Pass when even the unlucky end of the interval adds no more than ``max_calibration_loss`` to the error."""
    name, limit = "calibration_loss", settings.gate.max_calibration_loss
    if found is None or found.n < settings.gate.min_queries:
        told = "no data" if found is None else f"{found.n} queries, fewer than min_queries {settings.gate.min_queries}"
        return Rule(name, "inconclusive", f"{told}.", limit=limit)
    if not all(map(isfinite, (found.champion, found.challenger, found.difference, found.low, found.high))):
        return Rule(name, "inconclusive", "The calibration errors are not finite numbers.", limit=limit)
    change = (
        f"Calibration error on the rolling set {found.champion:.4f} -> {found.challenger:.4f} over {found.pairs} pairs "
        f"({_interval(found.difference, found.low, found.high, settings)})"
    )
    result: Result = "inconclusive"
    if found.low > limit:
        result, told = "failed", f"it is confidently worse by more than max_calibration_loss {limit:g}."
    elif found.high > limit:
        told = f"a loss above max_calibration_loss {limit:g} cannot be ruled out."
    else:
        result, told = "passed", f"any loss is within max_calibration_loss {limit:g}."
    return Rule(name, result, f"{change}: {told}", found.high, limit)


def _panel(trust: Trust | None) -> Rule:
    """Fail when the batch was held: the judges were not to be trusted in this cycle."""
    name = "panel_trust"
    if trust is None:
        return Rule(name, "inconclusive", "The annotate step did not say whether it held its batch.")
    if trust.held:
        return Rule(name, "failed", f"The panel's batch was held: {' '.join(trust.held)}", len(trust.held), 0)
    if trust.not_measured:
        told = f"Whether the panel is to be trusted is not known: {' '.join(trust.not_measured)}"
        return Rule(name, "inconclusive", told, len(trust.not_measured), 0)
    return Rule(name, "passed", "The panel of judges reached its trust bars.", 0, 0)


def _model_size(size_mb: float | None, settings: EvaluationSettings) -> Rule:
    limit = settings.gate.max_size_mb
    if size_mb is None or not isfinite(size_mb) or size_mb <= 0:
        return Rule("model_size", "inconclusive", "The size of the challenger's files is not known.", limit=limit)
    told = f"The challenger's files have {size_mb:.1f} MB, max_size_mb is {limit:g}."
    return Rule("model_size", "passed" if size_mb <= limit else "failed", told, round(size_mb, 1), limit)


def _serving(answers: Answers | None, settings: EvaluationSettings) -> Rule:
    """Pass when a server loaded the challenger and gave the scores that it has in this process."""
    limit = settings.gate.max_serving_difference
    if answers is None or not answers.requests:
        return Rule("serving", "inconclusive", "No golden batch was sent to a server.", limit=limit)
    if answers.lost:
        told = f"{answers.lost} Nothing is known of the challenger when served; see the step's log, and evaluate again."
        return Rule("serving", "error", told, limit=limit)
    if answers.refused:
        return Rule("serving", "failed", f"A server did not score with the challenger: {answers.refused}", limit=limit)
    if not isfinite(answers.difference):
        return Rule("serving", "inconclusive", "The served scores are not finite numbers.", limit=limit)
    told = (
        f"A server answered {answers.requests} requests of {answers.pairs} pairs with the challenger; its scores "
        f"differ from those computed here by {answers.difference:.4f} grades at most, max_serving_difference is "
        f"{limit:g}."
    )
    result: Result = "passed" if answers.difference <= limit else "failed"
    return Rule("serving", result, told, round(answers.difference, 4), limit)


def _lack(comparison: Comparison, settings: EvaluationSettings) -> str:
    """Say what is missing for a decision, or return an empty string."""
    if comparison.n < settings.gate.min_queries:
        return f"{comparison.n} queries, fewer than min_queries {settings.gate.min_queries}."
    if not all(map(isfinite, (comparison.difference, comparison.low, comparison.high, comparison.p))):
        return "The measures are not finite numbers."
    return ""


def _change(comparison: Comparison, settings: EvaluationSettings) -> str:
    return (
        f"{settings.gate_measure} {comparison.champion:.4f} -> {comparison.challenger:.4f} over {comparison.n} queries "
        f"({_interval(comparison.difference, comparison.low, comparison.high, settings)})"
    )


def _interval(difference: float, low: float, high: float, settings: EvaluationSettings) -> str:
    return f"{difference:+.4f}, {1 - settings.alpha:.0%} interval {low:+.4f} to {high:+.4f}"
