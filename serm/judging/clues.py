"""All that is known of pairs: what their texts show, what users did, what LLM judges said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serm.judging.evidence.found import Found
from serm.judging.evidence.user_likelihood import Counts
from serm.judging.judge import ABSTAINED, Floats, Integers, Votes


@dataclass(frozen=True)
class Clues:
    """What is known of n pairs."""

    text: Mapping[str, Floats]
    """[n, any] features, by the judge whose evidence they are."""
    counts: Counts
    """What users did; all 0 where they are not asked."""
    votes: Mapping[str, Votes]
    """Of the LLM judges."""

    def __len__(self) -> int:
        return len(self.counts.impressions)

    def take(self, rows: Integers) -> Clues:
        """Return what is known of the pairs of these rows."""
        return Clues(
            {name: features[rows] for name, features in self.text.items()},
            self.counts.take(rows),
            {name: votes.take(rows) for name, votes in self.votes.items()},
        )

    def without(self, judge: str) -> Clues:
        """Return what is known without the text evidence or the votes of ``judge``."""
        text = {name: features for name, features in self.text.items() if name != judge}
        return Clues(text, self.counts, {name: votes for name, votes in self.votes.items() if name != judge})


def of_evidence(found: Found) -> Floats:
    """Return the features of a kind of evidence, and whether it abstains."""
    return np.column_stack([found.features, found.abstains.astype(np.float64)])


def of_votes(votes: Votes) -> Floats:
    """Return a judge's distribution as features: its log odds to the mean grade's, and whether it abstained."""
    logs = np.log(np.maximum(votes.distribution, 0.01))
    return np.column_stack([logs - logs.mean(axis=1, keepdims=True), (votes.grades == ABSTAINED).astype(np.float64)])
