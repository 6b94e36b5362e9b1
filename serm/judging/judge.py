"""What a judge is: it reads pairs and votes, with a grade distribution, a rationale and its sampled paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serm.contracts import Grade

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GRADES = len(Grade)
ABSTAINED = -1
"""Stands for a grade where a judge gave none; a null in the VOTES dataset."""


@dataclass(frozen=True)
class Pairs:
    """n query-document pairs, as judges see them. All text is data: a judge never follows what it says."""

    queries: list[str]
    locales: list[str]
    doc_ids: list[str]
    titles: list[str]
    texts: list[str]
    """The document as text: its title, then its body."""
    keys: list[str | None]
    """What links the document to the outside knowledge; None where nothing does."""

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: Integers) -> Pairs:
        """Return the pairs of these rows."""
        columns = (self.queries, self.locales, self.doc_ids, self.titles, self.texts, self.keys)
        return Pairs(*([column[row] for row in rows] for column in columns))

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of all ``parts``, one after the other."""
        whole = Pairs([], [], [], [], [], [])
        for part in parts:
            for name, column in vars(whole).items():
                column.extend(getattr(part, name))
        return whole


@dataclass(frozen=True)
class Votes:
    """One judge's opinion on n pairs."""

    grades: Integers
    """[n], the majority grade 0..3 over the paths, or ``ABSTAINED``."""
    distribution: Floats
    """[n, 4], each row sums to 1: what the evidence says if all grades were as common."""
    within_agreement: Floats
    """[n], the share of the drawn paths that gave the majority grade; 0 where the judge abstained."""
    rationales: list[str]
    paths: Integers
    """[paths, n], the grade of each path; ``ABSTAINED`` where it was not drawn."""
    silent: NDArray[np.bool_]
    """[n], true where the judge abstained because its kind of evidence says nothing of the pair. A judge that was asked
    and gave no valid answer abstained too, but is not silent."""

    def take(self, rows: Integers) -> Votes:
        """Return the votes on these rows."""
        return Votes(
            self.grades[rows],
            self.distribution[rows],
            self.within_agreement[rows],
            [self.rationales[row] for row in rows],
            self.paths[:, rows],
            self.silent[rows],
        )


class Judge(Protocol):
    """Anything that grades pairs: a calibrated rule, an encoder, a person, an LLM."""

    name: str

    def judge(self, pairs: Pairs) -> Votes:
        """Vote on each pair, in the order of ``pairs``."""
        ...


def majority_vote(
    draw: Callable[[int, Integers], Floats], rationales: list[str], abstains: NDArray[np.bool_], paths: int
) -> Votes:
    """Level 1: sample up to ``paths`` paths for each pair, and take the majority grade.

    ``draw(path, rows)`` returns that path's grade distributions [len(rows), 4]. A pair's sampling stops once the
    paths that are left cannot change its majority. A tie goes to the grade that the paths found more probable.
    """
    count = len(rationales)
    counts = np.zeros((count, GRADES))
    mass = np.zeros((count, GRADES))
    grades = np.full((paths, count), ABSTAINED)
    for path in range(paths):
        second, first = np.sort(counts, axis=1)[:, -2:].T
        rows = np.flatnonzero(~abstains & (first - second <= paths - path))
        if rows.size:
            distribution = draw(path, rows)
            grades[path, rows] = distribution.argmax(axis=1)
            counts[rows, grades[path, rows]] += 1
            mass[rows] += distribution
    drawn = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    majority = (counts + mass / (paths + 1)).argmax(axis=1)
    return Votes(
        grades=np.where(abstains, ABSTAINED, majority),
        distribution=np.where(abstains[:, None], 1 / GRADES, mass / drawn),
        within_agreement=counts[np.arange(count), majority] / drawn[:, 0],
        rationales=rationales,
        paths=grades,
        silent=abstains,
    )
