"""What is made of an LLM judge's probabilities and narrow answers: right on pairs that it was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from serm.judging import trust
from serm.judging.judge import ABSTAINED, Integers, Pairs
from serm.judging.llm.calibrate import FEWEST, calibrate, calibration_error
from serm.judging.llm.vote import Vote, unjudged
from serm.settings.judging import CriterionSettings, TrustSettings

CRITERIA = (
    CriterionSettings(name="topic", question="?"),
    CriterionSettings(name="brand", question="?", scale="yes-no"),
)


def overconfident(
    truth: Integers, accuracy: float, chance: np.random.Generator, *, answers: bool = False
) -> list[Vote]:
    """A judge that is right in ``accuracy`` of the pairs of each grade and says 0.95 always."""
    said = np.where(chance.random(len(truth)) < accuracy, truth, (truth + chance.integers(1, 4, len(truth))) % 4)
    spread = np.where(np.eye(4, dtype=bool)[said], 0.95, 0.05 / 3)
    return [
        Vote(int(g), of.tolist(), 1.0, "so", [int(g)], answers=[float(t), float(t >= 2)] if answers else [])
        for g, of, t in zip(said, spread, truth, strict=True)
    ]


def distributions(votes: list[Vote]) -> np.ndarray:
    return np.array([vote.distribution for vote in votes])


@pytest.mark.parametrize("accuracy", [0.6, 0.85])
def test_an_overconfident_judge_says_how_often_it_is_right(accuracy: float) -> None:
    chance = np.random.default_rng(5)
    truth = np.arange(4000) % 4
    votes = overconfident(truth, accuracy, chance)
    fitted = calibrate(votes[:200], truth[:200], [f"q{n // 4}" for n in range(200)], ())
    assert fitted is not None
    rest = fitted.votes(votes[200:])
    assert calibration_error(distributions(votes[200:]), truth[200:]) == pytest.approx(0.95 - accuracy, abs=0.03)
    assert calibration_error(distributions(rest), truth[200:]) < 0.06
    assert distributions(rest).max(axis=1).mean() == pytest.approx(accuracy, abs=0.06)
    assert [vote.grade for vote in rest] == [vote.grade for vote in votes[200:]]
    assert distributions(fitted.known).sum(axis=1) == pytest.approx(1)


def test_narrow_answers_outweigh_a_bad_grade() -> None:
    chance = np.random.default_rng(6)
    truth = np.arange(600) % 4
    votes = overconfident(truth, 0.4, chance, answers=True)
    fitted = calibrate(votes[:200], truth[:200], [f"q{n // 4}" for n in range(200)], CRITERIA)
    assert fitted is not None
    right = [vote.grade == grade for vote, grade in zip(fitted.votes(votes[200:]), truth[200:], strict=True)]
    assert np.mean(right) > 0.9
    assert np.mean([vote.grade == g for vote, g in zip(fitted.known, truth, strict=False)]) > 0.9


def test_too_few_known_pairs_change_nothing_and_abstentions_stay() -> None:
    chance = np.random.default_rng(7)
    truth = np.arange(80) % 4
    queries = [f"q{n // 4}" for n in range(80)]
    votes = overconfident(truth, 0.8, chance)
    few = [vote if n >= 4 * (20 - FEWEST + 1) else unjudged("budget", "no") for n, vote in enumerate(votes)]
    assert calibrate(few, truth, queries, ()) is None
    assert calibrate(votes, truth, ["one"] * 80, ()) is None
    fitted = calibrate(votes, truth, queries, ())
    assert fitted is not None
    (none,) = fitted.votes([unjudged("budget", "no")])
    assert none == unjudged("budget", "no")
    assert none.grade == ABSTAINED


def test_the_calibration_error_is_the_gap_between_said_and_right_with_grades_alike() -> None:
    said = np.array([[0.8, 0.2, 0, 0]] * 4)
    assert calibration_error(said, np.array([0, 0, 0, 0])) == pytest.approx(0.2)
    assert calibration_error(said, np.array([0, 0, 0, 1])) == pytest.approx(0.3)
    assert calibration_error(np.zeros((0, 4)), np.zeros(0, np.int64)) is None


def test_a_judge_that_takes_length_for_relevance_is_held() -> None:
    bare = Pairs(["q"], ["en"], ["d"], ["t"], ["text"], [None])
    (padded,) = trust.pad(bare, 3).texts
    assert padded.startswith("text This entry")
    panel = {"labelled": 50, "quadratic_kappa": 0.9, "over_rated": 0.0, "under_rated": 0.0}
    checks = {"canaries": {"asked": 0}, "repeats": {"asked": 0}}
    bars = TrustSettings(canaries=0, padded=8)

    def told(**padded: object) -> trust.Bars:
        return trust.check_bars(panel, {"long": {**checks, "padded": padded}}, bars)

    assert told(asked=8, judged=8, shift=0.9).failed == [
        "the mean rise of long's grades on padded documents is 0.90, above 0.40."
    ]
    assert told(asked=8, judged=8, shift=-0.5) == trust.Bars()
    assert "judged 3 of 8 padded documents" in told(asked=8, judged=3, shift=0.0).not_measured[0]
    assert "judging.trust.padded: 0" in told(asked=0, judged=0, shift=None).not_measured[0]
