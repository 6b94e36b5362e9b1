"""The first screen answers: did it get better, by whose word, what did it cost, what should I do?"""

from __future__ import annotations

from typing import Any

import pytest
import report_history

from serm.report.answers import Answer, answers
from serm.settings import parse
from serm.workspace.history import Cycle

SETTINGS = parse('cycle: {number: 1, start: "2017-01-01T00:00:00Z", end: "2018-01-01T00:00:00Z"}')
MEASURE = SETTINGS.evaluation.gate_measure


def told(gain: dict[str, Any] | None = None, users: str | None = None, **changed: Any) -> dict[str, Answer]:
    summaries = report_history.summaries(1)
    summaries |= changed
    if gain:
        summaries["evaluate"]["sets"]["rolling"]["served"]["all"]["all"]["measures"][MEASURE] |= gain
    kept = {name: value for name, value in summaries.items() if value is not None}
    return {one.question: one for one in answers(Cycle("cycle-0001", kept, SETTINGS, users))}


@pytest.mark.parametrize(
    ("low", "high", "answer"), [(0.001, 0.02, "Yes"), (-0.01, 0.02, "Not shown"), (-0.03, -0.001, "No, worse")]
)
def test_better_is_said_only_of_an_interval_above_nothing(low: float, high: float, answer: str) -> None:
    assert told({"low": low, "high": high})["Did it get better?"].answer == answer


def test_a_gain_on_one_set_is_no_yes_where_the_gate_did_not_pass() -> None:
    evaluate = report_history.summaries(1)["evaluate"]
    evaluate["gate"]["result"] = "failed"
    assert told({"low": 0.001, "high": 0.02}, evaluate=evaluate)["Did it get better?"].answer.startswith("Perhaps")


def test_a_gain_that_a_control_has_too_is_not_the_labels() -> None:
    summaries = report_history.summaries(2)
    for one in summaries["evaluate"]["controls"].values():
        one["rolling"]["served"][MEASURE] |= {"difference": 0.002, "low": -0.001, "high": 0.005}
    said = told(evaluate=summaries["evaluate"])["Did it get better?"].details[1]
    assert said.startswith("That the new labels did it is not shown: over ")
    assert "+0.002 (−0.001 to +0.005)" in said
    summaries["evaluate"]["controls"] = {}
    said = told(evaluate=summaries["evaluate"])["Did it get better?"].details[1]
    assert said == "Whether the new labels did it is not known: no control was trained."


def test_a_simulated_worlds_tests_are_not_called_peoples() -> None:
    evaluate = report_history.summaries(1)["evaluate"] | {"tests": {"rolling": {"pairs": {"human": 12}}}}
    said = {audit: told(audit=audit, evaluate=evaluate)["By whose word?"].details[-1] for audit in (None, ())}
    assert said[None] == "What the test sets hold was judged by people."
    assert said[()] == "What the test sets hold is the simulated world's own truth."


def test_who_said_so_and_what_it_cost() -> None:
    found = told()
    assert "labels kept, by " in found["By whose word?"].details[0]
    assert " min " in found["What did it cost?"].answer
    assert (
        told(annotate=report_history.summaries(1)["annotate"] | {"held": ["kappa"]})["By whose word?"].tone == "worse"
    )


@pytest.mark.parametrize("result", ["passed", "failed", "inconclusive", "error"])
def test_what_to_do_follows_the_gate_and_names_a_command(result: str) -> None:
    evaluate = report_history.summaries(1)["evaluate"]
    evaluate["gate"]["result"] = result
    do = told(evaluate=evaluate)["What should I do?"]
    assert do.commands[-1] == "serm review"  # pairs wait for people
    assert {"passed": "serm rollout plan", "error": "serm evaluate"}.get(result, do.commands[0]) == do.commands[0]


@pytest.mark.parametrize(
    ("users", "answer", "command"),
    [
        (None, "Let users decide", "serm rollout plan"),
        ("running", "Let users decide", "serm rollout status"),
        ("promoted", "Go on", "serm advance"),
        ("rolled_back", "Keep the champion", "serm advance"),
        ("inconclusive", "Keep the champion", "serm advance"),
        ("error", "Keep the champion", "serm advance"),
    ],
)
def test_what_to_do_after_a_passed_gate_follows_what_users_decided(
    users: str | None, answer: str, command: str
) -> None:
    do = told(users=users)["What should I do?"]
    assert (do.answer, do.commands[0]) == (answer, command)


def test_a_quiet_window_and_a_broken_off_cycle_have_answers_too() -> None:
    nothing = dict.fromkeys(("evaluate", "train", "mine", "annotate", "deploy", "audit"))
    quiet = told(drift={"decision": "quiet"}, **nothing)
    assert [one.answer for one in quiet.values()][:2] == ["Nothing to learn", "Nobody's"]
    assert told(**nothing)["What should I do?"].answer == "Finish the cycle"
