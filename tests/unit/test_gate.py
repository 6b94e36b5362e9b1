"""The promotion gate."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest

from serm.evaluation.compare import Comparison
from serm.evaluation.gate import decide
from serm.settings import EvaluationSettings

GOOD = Comparison(
    n=500, champion=0.70, challenger=0.72, difference=0.02, low=0.01, high=0.03, p=0.001, p_holm=0.001, detectable=0.01,
    champion_low=0.68, champion_high=0.72, challenger_low=0.70, challenger_high=0.74,
)  # fmt: skip
EVEN = replace(GOOD, challenger=0.70, difference=0.0, low=-0.005, high=0.005, p=0.9)
BAD = replace(GOOD, challenger=0.68, difference=-0.02, low=-0.03, high=-0.015, p=0.001)
UNSURE = replace(GOOD, difference=0.02, low=-0.02, high=0.06, p=0.3)


@pytest.mark.parametrize(
    ("rolling", "frozen", "result"),
    [
        (GOOD, GOOD, "passed"),
        (GOOD, EVEN, "passed"),
        (GOOD, UNSURE, "inconclusive"),
        (GOOD, BAD, "failed"),
        (EVEN, EVEN, "inconclusive"),
        (UNSURE, GOOD, "inconclusive"),
        (BAD, GOOD, "failed"),
        (BAD, None, "failed"),
        (None, GOOD, "inconclusive"),
        (GOOD, None, "inconclusive"),
        (None, None, "inconclusive"),
        (replace(GOOD, n=49), GOOD, "inconclusive"),
        (GOOD, replace(EVEN, n=1), "inconclusive"),
        (replace(GOOD, p=nan), GOOD, "inconclusive"),
        (GOOD, replace(GOOD, low=nan), "inconclusive"),
        (replace(GOOD, p=0.05), GOOD, "inconclusive"),
    ],
)
def test_gate(rolling: Comparison | None, frozen: Comparison | None, result: str) -> None:
    verdict = decide(rolling, frozen, EvaluationSettings())
    assert verdict.result == result
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["Rolling set", "Frozen set"]


def test_gate_margins_and_reasons() -> None:
    strict = EvaluationSettings(gate={"min_gain": 0.02, "max_frozen_loss": 0.004})
    verdict = decide(GOOD, EVEN, strict)
    assert verdict.result == "inconclusive"
    assert verdict.reasons == (
        "Rolling set: NDCG@10 0.7000 -> 0.7200 over 500 queries (+0.0200, 95% interval +0.0100 to +0.0300), "
        "p = 0.0010: better, but not by more than min_gain 0.02.",
        "Frozen set: NDCG@10 0.7000 -> 0.7000 over 500 queries (+0.0000, 95% interval -0.0050 to +0.0050): "
        "a loss above max_frozen_loss 0.004 cannot be ruled out.",
    )
