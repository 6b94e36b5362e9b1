"""One test of a window and what it found; many together are decided with Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from serm.drift.permutation import Outcome
from serm.evaluation.significance import holm

Examples = list[dict[str, object]]


@dataclass(frozen=True)
class DriftTest:
    """One test and what it found; drift only where that is significant, large enough and more than usual."""

    name: str
    statistic: str
    value: float | None = None
    p: float | None = None
    """Null where nothing was sampled (a catalogue is counted) or nothing tested."""
    adjusted_p: float | None = None
    effect: float | None = None
    """What of the value chance does not explain."""
    floor: float | None = None
    """The effect from which on it matters."""
    usual: float | None = None
    """The value that one of the earlier windows had beside the others; null where there are fewer than two."""
    decision: str = "not tested"
    """drift, quiet or not tested."""
    finding: str = ""
    examples: Examples = field(default_factory=list)

    @classmethod
    def of(
        cls,
        name: str,
        statistic: str,
        outcome: Outcome,
        floor: float,
        finding: str,
        examples: Examples | None = None,
    ) -> DriftTest:
        """Return a permutation test's outcome, not yet decided."""
        return cls(
            name=name,
            statistic=statistic,
            value=outcome.value,
            p=outcome.p,
            effect=outcome.value - outcome.expected,
            floor=floor,
            usual=outcome.usual,
            finding=finding,
            examples=examples or [],
        )


def not_tested(name: str, why: str) -> DriftTest:
    """Return a test that could not be made."""
    return DriftTest(name=name, statistic="", finding=f"not tested: {why}")


def decided(tests: Sequence[DriftTest], alpha: float) -> list[DriftTest]:
    """Decide each test; all together alarm at most at the rate ``alpha`` though nothing changed.

    Holm's step-down procedure (1979) holds that family-wise rate however the tests depend on each other, as these
    do: one change moves several. Benjamini and Hochberg's would be stronger but bounds only the share of false
    alarms among alarms, and one false alarm already costs a cycle.
    """
    known = np.array([test.p for test in tests if test.p is not None])
    adjusted = iter(holm(known).tolist())
    corrected = [replace(test, adjusted_p=None if test.p is None else next(adjusted)) for test in tests]
    return [_decided(test, alpha) for test in corrected]


def _decided(test: DriftTest, alpha: float) -> DriftTest:
    if test.effect is None or test.floor is None:
        return test
    sure = test.adjusted_p is None or test.adjusted_p <= alpha
    unusual = test.usual is None or test.value is None or test.value > test.usual
    return replace(test, decision="drift" if sure and unusual and test.effect >= test.floor else "quiet")


def rise(name: str, before: float, now: float) -> dict[str, object]:
    """Return an example: a name and its shares."""
    return {"name": name, "before": round(float(before), 6), "now": round(float(now), 6)}


def share(value: float) -> str:
    """Write a share as a percentage."""
    return f"{value:.1%}"
