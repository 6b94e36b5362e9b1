"""Who sits on a batch's panel: the offline judges, calibrated on seed judgments, and what LLM judges answered."""

from __future__ import annotations

import numpy as np

from serm.judging.batch import Batch
from serm.judging.judge import Integers, Votes
from serm.judging.llm.ask import Asked
from serm.judging.offline import offline_judges
from serm.judging.panel import Panel
from serm.settings import Settings


def seat(batch: Batch, asked: Asked | None, settings: Settings) -> tuple[Panel, Integers]:
    """Seat the judges; return the panel, and the rows of the known pairs that it counts.

    LLM judges grade few of the known pairs. Held-out ones that they did not grade are left out: no panel with them
    could be measured there.
    """
    votes: dict[str, Votes] = {}
    known_votes: dict[str, Votes] = {}
    if settings.judging.offline or asked is None:
        judges = offline_judges(batch, settings)
        votes.update({judge.name: judge.judge(batch.pairs) for judge in judges})
        known_votes.update({judge.name: judge.judge(batch.known) for judge in judges})
    rows = np.arange(len(batch.known))
    if asked:
        votes.update(asked.votes)
        known_votes.update(asked.known_votes)
        counted = ~batch.unseen if settings.judging.offline else np.zeros(len(rows), bool)
        counted[asked.known] = True
        rows = np.flatnonzero(counted)
    of_rows = {name: of.take(rows) for name, of in known_votes.items()}
    return Panel(votes, of_rows, batch.grades[rows], batch.unseen[rows]), rows
