"""Who sits on a batch's panel: the offline judges, those of other packages, and what LLM judges answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from serm import entry_points
from serm.errors import UserError
from serm.judging.batch import Batch
from serm.judging.judge import ABSTAINED, GRADES, Integers, Judge, Pairs, Votes
from serm.judging.llm.ask import Asked
from serm.judging.offline import offline_judges
from serm.judging.panel import Panel
from serm.settings import JudgingSettings, Settings
from serm.settings.judging import OFFLINE_JUDGES

JudgeFactory = Callable[[Pairs, Integers, JudgingSettings], Judge]
"""What an entry point of ``serm.judges`` names: it gets the seed judgments to calibrate on (pairs, grades [n])."""


def seat(batch: Batch, asked: Asked | None, settings: Settings) -> tuple[Panel, Integers]:
    """Seat the judges; return the panel, and the rows of the known pairs that it counts.

    LLM judges grade few of the known pairs. Held-out ones that they did not grade are left out: no panel with them
    could be measured there.

    Raises:
        UserError: a judge of another package cannot be had, or does not vote as a judge must.
    """
    votes: dict[str, Votes] = {}
    known_votes: dict[str, Votes] = {}
    judging = settings.judging
    if judging.offline or (asked is None and not judging.judges):
        judges = offline_judges(batch, settings)
        votes.update({judge.name: judge.judge(batch.pairs) for judge in judges})
        known_votes.update({judge.name: judge.judge(batch.known) for judge in judges})
    for name, judge in _of_other_packages(batch, judging):
        votes[name] = _checked(judge.judge(batch.pairs), batch.pairs, name)
        known_votes[name] = _checked(judge.judge(batch.known), batch.known, name)
    rows = np.arange(len(batch.known))
    if asked:
        votes.update(asked.votes)
        known_votes.update(asked.known_votes)
        counted = ~batch.unseen if judging.offline or judging.judges else np.zeros(len(rows), bool)
        counted[asked.known] = True
        rows = np.flatnonzero(counted)
    of_rows = {name: of.take(rows) for name, of in known_votes.items()}
    return Panel(votes, of_rows, batch.grades[rows], batch.unseen[rows]), rows


def _of_other_packages(batch: Batch, settings: JudgingSettings) -> Iterator[tuple[str, Judge]]:
    """Calibrate the judges that ``settings.judges`` names on the seed judgments that are not held out."""
    factories: dict[str, JudgeFactory] = entry_points.load(
        "serm.judges", settings.judges, OFFLINE_JUDGES, "judging.judges"
    )
    seen = np.flatnonzero(~batch.unseen)
    for name, judge_of in factories.items():
        yield name, judge_of(batch.known.take(seen), batch.grades[seen], settings)


def _checked(votes: Votes, pairs: Pairs, name: str) -> Votes:
    """Return ``votes`` if they are votes on ``pairs``."""
    count = len(pairs)
    shapes = {np.shape(of) for of in (votes.grades, votes.within_agreement, votes.silent)}
    whole = shapes == {(count,)} and np.shape(votes.distribution) == (count, GRADES)
    whole = whole and len(votes.rationales) == count and np.shape(votes.paths)[1:] == (count,)
    if not (whole and np.isin(votes.grades, [ABSTAINED, *range(GRADES)]).all()):
        package = entry_points.versions("serm.judges", [name])[name]
        raise UserError(
            f"judging.judges: {name!r} of {package} did not vote on {count} pairs as serm.judging.judge.Votes says "
            "(a grade 0 to 3, or -1, each; a distribution [n, 4]; a rationale each); mend it, or take the name out."
        )
    return votes
