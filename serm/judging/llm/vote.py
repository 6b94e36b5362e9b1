"""Level 1 for one pair: the grades of a judge's sampled paths, and when they are decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serm.judging.judge import ABSTAINED, GRADES, Votes


@dataclass
class Tally:
    """Counts the paths of one pair. A path that gave no grade counts as an abstention, a choice like a grade."""

    paths: int
    grades: list[int] = field(default_factory=list)
    """Of the paths drawn so far; ``ABSTAINED`` for an abstention."""
    mass: list[float] = field(default_factory=lambda: [0.0] * GRADES)
    """The sum of the paths' distributions."""
    rationales: list[str] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    """The answers to narrow questions, of the paths that gave a grade."""

    @property
    def decided(self) -> bool:
        """Whether the paths that are left can no longer change the majority."""
        second, first = sorted(self._counts())[-2:]
        left = self.paths - len(self.grades)
        return not left or first - second > left

    def add(self, grade: int, distribution: list[float], rationale: str, answers: Sequence[int] = ()) -> None:
        """Count one path."""
        self.grades.append(grade)
        self.rationales.append(rationale)
        if grade != ABSTAINED:
            self.answers.append(list(answers))
            self.mass = [a + b for a, b in zip(self.mass, distribution, strict=True)]

    def vote(self) -> Vote:
        """Take the majority; a tie goes to the grade that the paths found more probable, never to abstention."""
        *counts, abstained = self._counts()
        votes = sum(counts)
        grade = int(np.argmax([c + m / (self.paths + 1) for c, m in zip(counts, self.mass, strict=True)]))
        if abstained > counts[grade] or not votes:
            return Vote(ABSTAINED, [1 / GRADES] * GRADES, 0.0, self._rationale(ABSTAINED), self.grades)
        total = sum(self.mass)
        within = counts[grade] / len(self.grades)
        answers = np.mean(self.answers, axis=0).tolist()
        return Vote(grade, [m / total for m in self.mass], within, self._rationale(grade), self.grades, answers=answers)

    def _counts(self) -> list[int]:
        return [self.grades.count(grade) for grade in (*range(GRADES), ABSTAINED)]

    def _rationale(self, grade: int) -> str:
        """The first rationale that speaks for the majority."""
        spoken = [r for g, r in zip(self.grades, self.rationales, strict=True) if g == grade]
        return spoken[0] if spoken else "no answer."


@dataclass(frozen=True)
class Vote:
    """What a judge makes of one pair; the fields are those of ``serm.judging.judge.Votes``."""

    grade: int
    distribution: list[float]
    within_agreement: float
    rationale: str
    paths: list[int]
    pending: str = ""
    """Why the pair was not judged to the end: a cap (money, calls, time) or the endpoint's failure; else empty."""
    answers: list[float] = field(default_factory=list)
    """To the judge's narrow questions, in their order, the mean over the paths that gave a grade."""


def unjudged(reason: str, rationale: str) -> Vote:
    """Return the vote on a pair that was not judged to the end."""
    return Vote(ABSTAINED, [1 / GRADES] * GRADES, 0.0, rationale, [], reason)


def votes(ballots: Sequence[Vote], paths: int) -> Votes:
    """Return one judge's ballots on n pairs as votes."""
    drawn = np.full((paths, len(ballots)), ABSTAINED)
    for row, vote in enumerate(ballots):
        drawn[: len(vote.paths), row] = vote.paths
    return Votes(
        grades=np.array([o.grade for o in ballots], np.int64),
        distribution=np.array([o.distribution for o in ballots], np.float64).reshape(-1, GRADES),
        within_agreement=np.array([o.within_agreement for o in ballots], np.float64),
        rationales=[o.rationale for o in ballots],
        paths=drawn,
        silent=np.zeros(len(ballots), bool),
    )
