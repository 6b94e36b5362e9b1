"""The promotion gate: each rule at its limit, and nothing passes on missing data."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf, nan

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serm.evaluation.calibration import Calibration
from serm.evaluation.compare import Comparison, SliceTest
from serm.evaluation.gate import SETS, SLICED, WORST_FIRST, Answers, GateInputs, Rule, Trust, decide
from serm.settings import EvaluationSettings
from serm.workspace import history

GOOD = Comparison(
    n=500, champion=0.70, challenger=0.72, difference=0.02, low=0.01, high=0.03, p=0.001, p_holm=0.001, detectable=0.01,
    champion_low=0.68, champion_high=0.72, challenger_low=0.70, challenger_high=0.74,
)  # fmt: skip
EVEN = replace(GOOD, challenger=0.70, difference=0.0, low=-0.005, high=0.005, p=0.9)
BAD = replace(GOOD, challenger=0.68, difference=-0.02, low=-0.03, high=-0.015, p=0.001)
UNSURE = replace(GOOD, difference=0.02, low=-0.02, high=0.06, p=0.3)
SLICES = [SliceTest(name, f"{kind}:x", 100, True, 0.01, 0.03, 0.99, 0.02) for name in SETS for kind in SLICED]
HONEST = Calibration(n=500, pairs=8000, champion=0.05, challenger=0.055, difference=0.005, low=-0.01, high=0.015)
ANSWERS = Answers(requests=20, pairs=320, difference=0.0)
TRUSTED = Trust(held=[], not_measured=[])
PASSING = GateInputs(GOOD, EVEN, EVEN, SLICES, HONEST, TRUSTED, ANSWERS, 300.0)
SETTINGS = EvaluationSettings()


def _rule(inputs: GateInputs, name: str, settings: EvaluationSettings = SETTINGS) -> Rule:
    (found,) = (rule for rule in decide(inputs, settings).rules if rule.rule == name)
    return found


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
def test_both_sets(rolling: Comparison | None, frozen: Comparison | None, result: str) -> None:
    assert decide(replace(PASSING, rolling=rolling, frozen=frozen), SETTINGS).result == result


def test_margins_and_reasons() -> None:
    strict = EvaluationSettings(gate={"min_gain": 0.02, "max_frozen_loss": 0.004})
    verdict = decide(PASSING, strict)
    assert verdict.result == "inconclusive"
    assert verdict.rules[:2] == (
        Rule(
            "rolling_gain",
            "inconclusive",
            "NDCG@10 0.7000 -> 0.7200 over 500 queries (+0.0200, 95% interval +0.0100 to +0.0300), p = 0.0010: better, "
            "but not by more than min_gain 0.02.",
            0.02,
            0.02,
        ),
        Rule(
            "frozen_loss",
            "inconclusive",
            "NDCG@10 0.7000 -> 0.7000 over 500 queries (+0.0000, 95% interval -0.0050 to +0.0050): a loss above "
            "max_frozen_loss 0.004 cannot be ruled out.",
            0.005,
            0.004,
        ),
    )


@pytest.mark.parametrize(
    ("min_gain", "result", "told"),
    [
        (0.0, "passed", "significantly better, by more than min_gain 0."),
        (0.0099, "passed", "significantly better, by more than min_gain 0.0099."),
        (
            0.01,
            "passed",
            "the gain measured is above min_gain 0.01, but the interval does not show that the true one is.",
        ),
        (
            0.019,
            "passed",
            "the gain measured is above min_gain 0.019, but the interval does not show that the true one is",
        ),
        (0.02, "inconclusive", "better, but not by more than min_gain 0.02."),
    ],
)
def test_by_more_than_min_gain_is_said_only_where_the_interval_says_so(min_gain: float, result: str, told: str) -> None:
    """The gain measured is 0.02, its interval from 0.01 to 0.03."""
    found = _rule(PASSING, "rolling_gain", EvaluationSettings(gate={"min_gain": min_gain}))
    assert found.result == result
    assert told in found.reason


def test_the_interval_below_the_least_gain_is_told_even_if_the_test_is_significant() -> None:
    found = _rule(replace(PASSING, rolling=replace(GOOD, low=-0.001)), "rolling_gain")
    assert "does not show" in found.reason
    assert "by more than" not in found.reason


HARMLESS = replace(GOOD, challenger=0.706, difference=0.006, low=-0.002, high=0.014, p=0.14)


@pytest.mark.parametrize(
    ("rolling", "min_gain", "result", "told"),
    [
        (HARMLESS, -0.01, "passed", "no gain is shown, and any loss is within 0.01, as min_gain asks."),
        (HARMLESS, -0.001, "inconclusive", "a loss above 0.001 cannot be ruled out"),
        (HARMLESS, 0.0, "inconclusive", "not evidence of none"),
        (UNSURE, -0.01, "inconclusive", "a loss above 0.01 cannot be ruled out"),
        (GOOD, -0.01, "passed", "significantly better"),
        (BAD, -0.05, "failed", "significantly worse"),  # also a loss within the margin
        (replace(HARMLESS, low=nan), -0.01, "inconclusive", "not finite numbers"),
        (replace(HARMLESS, n=49), -0.01, "inconclusive", "fewer than min_queries"),
    ],
)
def test_below_0_min_gain_is_a_margin_for_a_loss_and_users_are_left_to_find_the_gain(
    rolling: Comparison, min_gain: float, result: str, told: str
) -> None:
    found = _rule(replace(PASSING, rolling=rolling), "rolling_gain", EvaluationSettings(gate={"min_gain": min_gain}))
    assert found.result == result
    assert told in found.reason


def test_queries_that_can_tell_nothing_do_not_say_what_they_would_have_seen() -> None:
    reason = _rule(replace(PASSING, rolling=replace(UNSURE, detectable=inf)), "rolling_gain").reason
    assert "not evidence of none." in reason
    assert "inf" not in reason


@pytest.mark.parametrize(("detectable", "blind"), [(0.0241, 0), (0.0242, 1)])
def test_a_slice_is_blind_if_its_adjusted_test_misses_twice_the_margin(detectable: float, blind: int) -> None:
    """Twelve slices: z(1 - .05 / 12) + z(.8) is 1.2421 times z(.975) + z(.8); margins are 0.03."""
    slices = [replace(SLICES[0], detectable=detectable), *(replace(one, detectable=0.001) for one in SLICES[1:])]
    told = _rule(replace(PASSING, slices=slices), "slice_loss").reason
    assert f"{blind} of the tested have too few to find a loss of twice their margin four times in five." in told


def test_no_difference_says_what_would_have_been_seen() -> None:
    reason = _rule(replace(PASSING, rolling=UNSURE), "rolling_gain").reason
    assert "no evidence of a difference, which is not evidence of none" in reason
    assert "find a true difference of 0.0100 four times in five" in reason


def test_a_slice_fails_only_with_confidence_among_all_of_them() -> None:
    worse = replace(SLICES[3], slice="locale:de", difference=-0.08, p_worse=0.003)
    (one,) = (
        rule for rule in decide(replace(PASSING, slices=[*SLICES, worse]), SETTINGS).rules if "slice" in rule.rule
    )
    assert (one.result, one.value, one.limit, one.slice) == ("failed", 0.08, 0.03, f"{worse.set} locale:de")
    assert "p = 0.0390" in one.reason  # 13 slices
    unlucky = replace(worse, p_worse=0.004)  # 0.052 among 13
    assert _rule(replace(PASSING, slices=[*SLICES, unlucky]), "slice_loss").result == "passed"


def test_a_slice_too_small_to_be_tested_is_counted_and_one_that_sees_little_too() -> None:
    small = replace(SLICES[0], n=5, tested=False, difference=-0.5, p_worse=nan)
    blind = replace(SLICES[1], detectable=0.09)
    found = _rule(replace(PASSING, slices=[*SLICES, small, blind]), "slice_loss")
    assert found.result == "passed"
    assert "None of 13 slices" in found.reason
    assert "1 were too small" in found.reason
    assert "1 of the tested have too few" in found.reason
    none = [replace(one, tested=False) for one in SLICES]
    assert _rule(replace(PASSING, slices=none), "slice_loss").result == "inconclusive"


@pytest.mark.parametrize(
    ("change", "rule", "result"),
    [
        ({"pool": replace(EVEN, low=-0.016)}, "pool_loss", "inconclusive"),
        ({"pool": replace(EVEN, low=-0.03, difference=-0.02, high=-0.016)}, "pool_loss", "failed"),
        ({"pool": replace(EVEN, n=49)}, "pool_loss", "inconclusive"),
        ({"calibration": replace(HONEST, low=0.021, difference=0.03, high=0.04)}, "calibration_loss", "failed"),
        ({"calibration": replace(HONEST, high=0.021)}, "calibration_loss", "inconclusive"),
        ({"calibration": replace(HONEST, n=49)}, "calibration_loss", "inconclusive"),
        ({"trust": Trust(["kappa is 0.1, below 0.4."], [])}, "panel_trust", "failed"),
        ({"trust": Trust([], ["kappa is not known: all one grade."])}, "panel_trust", "inconclusive"),
        ({"size_mb": 1000.1}, "model_size", "failed"),
        ({"answers": replace(ANSWERS, difference=0.06)}, "serving", "failed"),
        ({"answers": replace(ANSWERS, refused="HTTP 500")}, "serving", "failed"),
        ({"answers": replace(ANSWERS, lost="The model server ended with code -9.")}, "serving", "error"),
        ({"answers": replace(ANSWERS, requests=0)}, "serving", "inconclusive"),
        ({"answers": replace(ANSWERS, difference=nan)}, "serving", "inconclusive"),
        ({"answers": None}, "serving", "inconclusive"),
    ],
)
def test_one_rule_decides(change: dict[str, object], rule: str, result: str) -> None:
    assert decide(PASSING, SETTINGS).result == "passed"
    inputs = replace(PASSING, **change)
    assert _rule(inputs, rule).result == result
    assert decide(inputs, SETTINGS).result == result


def test_the_worst_result_of_a_rule_is_the_verdict_and_a_crash_is_worse_than_a_loss() -> None:
    """error > failed > inconclusive > passed, whichever rules they are of."""
    crashed, unmeasured = replace(ANSWERS, lost="The model server gave no answer."), replace(HONEST, n=1)
    of = {
        "passed": PASSING,
        "inconclusive": replace(PASSING, calibration=unmeasured),
        "failed": replace(PASSING, calibration=unmeasured, frozen=BAD),
        "error": replace(PASSING, calibration=unmeasured, frozen=BAD, answers=crashed),
    }
    assert {result: decide(inputs, SETTINGS).result for result, inputs in of.items()} == {one: one for one in of}
    assert tuple(of)[::-1] == WORST_FIRST == history.GATES


@given(st.data())
def test_nothing_passes_on_missing_data(data: st.DataObject) -> None:
    """Take any part of the inputs away, or any number in it, and the gate does not pass."""
    field = data.draw(st.sampled_from([one.name for one in fields(GateInputs)]))
    found = getattr(PASSING, field)
    if field == "slices":
        gone = data.draw(st.sampled_from(range(len(SLICES))))
        number = data.draw(st.sampled_from(["n", "difference", "p_worse", "detectable", None]))
        kept = [one for place, one in enumerate(SLICES) if place != gone]
        damaged: object = kept
        if number:
            damaged = [*kept, replace(SLICES[gone], **{number: nan}, tested=number != "n")]
            assume(number != "n")  # an untested slice has no say, and its kind is still there
    elif field in ("trust", "size_mb") or data.draw(st.booleans()):
        damaged = None
    else:
        read = {
            "rolling": ("difference", "low", "high", "p"),
            "frozen": ("difference", "low", "high", "p"),
            "pool": ("difference", "low", "high", "p"),
            "calibration": ("champion", "challenger", "difference", "low", "high"),
            "answers": ("difference",),
        }[field]
        damaged = replace(found, **{data.draw(st.sampled_from(read)): nan})
    assert decide(replace(PASSING, **{field: damaged}), SETTINGS).result != "passed"


def test_no_inputs_at_all_is_inconclusive_in_every_rule() -> None:
    verdict = decide(GateInputs(None, None, None, [], None, None, None, None), SETTINGS)
    assert {rule.result for rule in verdict.rules} == {"inconclusive"}
    assert verdict.result == "inconclusive"


def test_a_slice_may_have_its_own_margin_and_a_slip_in_its_name_is_an_error() -> None:
    names = {f"{kind}:x": 0.01 for kind in SLICED}
    assert EvaluationSettings(gate={"slice_losses": names}).gate.slice_losses == names
    with pytest.raises(ValueError, match="should match pattern"):
        EvaluationSettings(gate={"slice_losses": {"de": 0.01}})


def test_a_sound_servers_rounding_fails_no_challenger() -> None:
    """Of two of the demo's challengers scores moved by 0.013 and 0.016 of a grade."""
    assert _rule(replace(PASSING, answers=replace(ANSWERS, difference=0.0163)), "serving").result == "passed"
