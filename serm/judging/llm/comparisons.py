"""Which of two documents answers a query better, asked in both orders: pairwise ranking prompting.

A judge that grades a document alone has nothing to hold it against; asked to choose, it is righter, and asked in both
orders its liking for the first one cancels out (Qin et al. 2023, "Large language models are effective text rankers with
pairwise ranking prompting", arXiv 2306.17563). The share of comparisons that a document wins is one more answer to a
narrow question: what it says of the grade is fitted on known pairs (``serm.judging.llm.calibrate``).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serm.judging.judge import ABSTAINED, Pairs
from serm.judging.llm.vote import Vote
from serm.settings.judging import CriterionSettings

WON = CriterionSettings(name="won", question="The share of comparisons that the document wins.", scale="yes-no")
"""The answer that comparisons add, 0 to 1."""


@dataclass(frozen=True)
class Couples:
    """Pairs of one query each, two by two."""

    pairs: Pairs
    """The pairs that are judged, then those that they may meet."""
    rows: Sequence[tuple[int, int]]
    """Rows of ``pairs``, the first of which is judged; no two texts meet twice."""

    @staticmethod
    def of(judged: Pairs, opposite: Pairs, most: int) -> Couples:
        """Let each judged pair meet up to ``most`` other documents of its query among ``opposite``, drawn by a hash."""
        pairs = Pairs.joined([judged, opposite])
        asked = list(zip(pairs.queries, pairs.locales, strict=True))
        by_query: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for row in range(len(judged), len(pairs)):
            by_query[asked[row]].setdefault(pairs.texts[row], row)
        met: dict[tuple[str, ...], tuple[int, int]] = {}
        for row in range(len(judged)):
            own, key = pairs.texts[row], asked[row]
            # Nor meets a padded document, or one with an attack planted, itself.
            others = [
                (hashlib.sha256(repr((*key, *sorted((own, text)))).encode()).digest(), text, other)
                for text, other in by_query[key].items()
                if text != own and pairs.doc_ids[other] != pairs.doc_ids[row]
            ]
            for _, text, other in sorted(others)[:most]:
                met.setdefault((*key, *sorted((own, text))), (row, other))
        return Couples(pairs, list(met.values()))


@dataclass(frozen=True)
class Outcomes:
    """What came of the comparisons."""

    couples: Couples
    scores: Sequence[tuple[float, float] | None]
    """By couple: that of the first one's document when it is shown first, and when it is shown second (1 it is better,
    0 the other, 0.5 neither); None where one of the two was not answered."""

    def answered(self, ballots: Sequence[Vote]) -> list[Vote]:
        """Add to the votes on the n judged pairs the share that each one's document won; 0.5 where it met none."""
        pairs = self.couples.pairs
        keys = list(zip(pairs.queries, pairs.locales, pairs.texts, strict=True))
        won: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for (row, other), score in zip(self.couples.rows, self.scores, strict=True):
            if score is not None:
                won[keys[row]].append(sum(score) / 2)
                won[keys[other]].append(1 - sum(score) / 2)
        shares = [sum(scores) / len(scores) if (scores := won.get(key)) else 0.5 for key in keys[: len(ballots)]]
        return [
            vote if vote.grade == ABSTAINED else replace(vote, answers=[*vote.answers, share])
            for vote, share in zip(ballots, shares, strict=True)
        ]

    def figures(self) -> Mapping[str, Any]:
        """Return how many were ``asked`` and ``answered``; of those, the share that was the same in both orders
        (``consistent``), and the mean score of the document shown first (``first``, 0.5 if the place says nothing)."""
        told = [score for score in self.scores if score is not None]
        found: dict[str, Any] = {"asked": len(self.scores), "answered": len(told), "consistent": None, "first": None}
        if told:
            found["consistent"] = round(sum(one == two for one, two in told) / len(told), 4)
            found["first"] = round(sum((one + 1 - two) / 2 for one, two in told) / len(told), 4)
        return found
