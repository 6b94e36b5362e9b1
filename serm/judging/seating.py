"""Who sits on a batch's panel: the offline judges, those of other packages, and what LLM judges answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from serm import entry_points
from serm.errors import UserError
from serm.judging.batch import Batch
from serm.judging.clues import Clues, of_evidence, of_votes
from serm.judging.evidence.found import Evidence, Found
from serm.judging.evidence.user_likelihood import Counts
from serm.judging.judge import ABSTAINED, GRADES, Floats, Integers, Judge, Pairs, Votes
from serm.judging.llm.ask import Asked
from serm.judging.offline import CalibratedJudge, text_evidence, users_evidence
from serm.judging.panel import Panel
from serm.settings import JudgingSettings, Settings
from serm.settings.judging import OFFLINE_JUDGES

JudgeFactory = Callable[[Pairs, Integers, JudgingSettings], Judge]
"""What an entry point of ``serm.judges`` names: it gets the seed judgments to calibrate on (pairs, grades [n])."""


@dataclass(frozen=True)
class Seated:
    """The judges of a batch."""

    panel: Panel
    rows: Integers
    """Of the known pairs, those that the panel counts."""
    look: Callable[[Pairs, pa.Table], Clues]
    """Returns what is known of other pairs, given what users did with them (CLICK_ESTIMATES); LLM judges are not asked.
    """


def seat(batch: Batch, asked: Asked | None, settings: Settings) -> Seated:
    """Seat the judges.

    LLM judges grade few of the known pairs. Held-out ones that they did not grade are left out: no panel with them
    could be measured there.

    Raises:
        UserError: a judge of another package cannot be had, or does not vote as a judge must.
    """
    votes: dict[str, Votes] = {}
    known_votes: dict[str, Votes] = {}
    text: dict[str, Floats] = {}
    known_text: dict[str, Floats] = {}
    judging = settings.judging
    evidence: list[Evidence] = []
    offline = judging.offline or (asked is None and not judging.judges)
    if offline:
        users = users_evidence(batch)
        all_pairs, count = Pairs.joined([batch.known, batch.pairs]), len(batch.known)
        texts = text_evidence(batch, settings)
        for of in [*texts, users] if users else texts:
            both = of.look_up(all_pairs)
            known, found = both.take(np.arange(count)), both.take(np.arange(count, len(all_pairs)))
            if not _calibrates(known, batch):
                continue
            if of is not users:
                evidence.append(of)
            votes[of.name], known_votes[of.name] = _calibrated(found, known, batch, judging)
            if of is not users:
                text[of.name], known_text[of.name] = of_evidence(found), of_evidence(known)
    others = dict(_of_other_packages(batch, judging))
    for name, judge in others.items():
        votes[name] = _checked(judge.judge(batch.pairs), batch.pairs, name)
        known_votes[name] = _checked(judge.judge(batch.known), batch.known, name)
        text[name], known_text[name] = of_votes(votes[name]), of_votes(known_votes[name])
    rows = np.arange(len(batch.known))
    if asked:
        votes.update(asked.votes)
        known_votes.update(asked.known_votes)
        counted = ~batch.unseen if offline or judging.judges else np.zeros(len(rows), bool)
        counted[asked.known] = True
        rows = np.flatnonzero(counted)

    def counts_of(pairs: Pairs, clicks: pa.Table) -> Counts:
        return Counts.of(clicks if offline else clicks.slice(0, 0), pairs.queries, pairs.locales, pairs.doc_ids)

    def look(pairs: Pairs, clicks: pa.Table) -> Clues:
        features = {of.name: of_evidence(of.look_up(pairs)) for of in evidence}
        features |= {name: of_votes(_checked(judge.judge(pairs), pairs, name)) for name, judge in others.items()}
        return Clues(features, counts_of(pairs, clicks), {})

    clues = Clues(text, counts_of(batch.pairs, batch.clicks), asked.votes if asked else {})
    known_clues = Clues(known_text, counts_of(batch.known, batch.clicks), asked.known_votes if asked else {})
    of_rows = {name: of.take(rows) for name, of in known_votes.items()}
    panel = Panel(votes, of_rows, clues, known_clues.take(rows), batch.grades[rows], batch.unseen[rows])
    return Seated(panel, rows, look)


def _calibrates(known: Found, batch: Batch) -> bool:
    """Tell whether a kind of evidence says something of known pairs of two grades: no knowledge says nothing."""
    return len(np.unique(batch.grades[~known.abstains & ~batch.unseen])) > 1


def _calibrated(found: Found, known: Found, batch: Batch, settings: JudgingSettings) -> tuple[Votes, Votes]:
    """Calibrate a judge on the seed judgments that are not held out; return its votes on mined and on known pairs."""
    seen = np.flatnonzero(~batch.unseen)
    queries = batch.known.take(seen).queries
    judge = CalibratedJudge(known.take(seen), queries, batch.grades[seen], settings.paths, settings.seed)
    return judge.judge(found), judge.judge(known)


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
