"""Who sits on a batch's panel: the offline judges, calibrated on seed judgments, and what LLM judges answered."""

from __future__ import annotations

import numpy as np

from serm.judging.batch import Batch
from serm.judging.calibration import CalibratedJudge, Evidence
from serm.judging.encoder import Embeddings, EncoderEvidence
from serm.judging.judge import Integers, Pairs, Votes
from serm.judging.lexical import LexicalEvidence
from serm.judging.llm.panel import Asked
from serm.judging.outside import OutsideEvidence
from serm.judging.panel import Panel
from serm.judging.users import UserEvidence
from serm.relevance import load_encoder
from serm.settings import Settings

FEWEST_SEEN = 50
"""Seed judgments of pairs that users of the window saw, without which what users do cannot be read as a grade."""


def seat(batch: Batch, asked: Asked | None, settings: Settings) -> tuple[Panel, Integers]:
    """Seat the judges; return the panel, and the rows of the known pairs that it counts.

    LLM judges grade few of the known pairs. Held-out ones that they did not grade are left out: no panel with them
    could be measured there.
    """
    votes: dict[str, Votes] = {}
    known_votes: dict[str, Votes] = {}
    if settings.judging.offline or asked is None:
        judges = _offline(batch, settings)
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


def _offline(batch: Batch, settings: Settings) -> list[CalibratedJudge]:
    embeddings = Embeddings(load_encoder(settings.relevance.base, settings.relevance))
    catalogue, knowledge = batch.catalogue, batch.knowledge
    evidence: list[Evidence] = [
        LexicalEvidence(catalogue.locales, catalogue.titles),
        EncoderEvidence(embeddings, catalogue.locales, catalogue.doc_ids, catalogue.texts),
        OutsideEvidence(embeddings, knowledge["key"].to_pylist(), knowledge["text"].to_pylist()),
    ]
    seen = np.flatnonzero(~batch.unseen)
    known, grades = batch.known.take(seen), batch.grades[seen]
    users = UserEvidence(batch.impressions, Pairs.joined([batch.known, batch.pairs]), settings)
    told = ~users.look_up(known).abstains
    if told.sum() >= FEWEST_SEEN and len(np.unique(grades[told])) > 1:
        evidence.append(users)
    return [CalibratedJudge(of, known, grades, settings.judging.paths, settings.judging.seed) for of in evidence]
