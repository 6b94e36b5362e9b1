"""Grades where nothing is judged yet: by LLM judges whom nothing known checks, and by people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import replace_directory
from serm.judging.agreement import Decision, confident
from serm.judging.batch import Batch
from serm.judging.evidence.catalogue import Catalogue
from serm.judging.evidence.retrieval import Piece
from serm.judging.judge import ABSTAINED, GRADES, Integers, Pairs, Votes
from serm.judging.llm.ask import ask
from serm.judging.records import judgments_table, review_table, votes_table
from serm.judging.shown import Shown
from serm.judging.version import panel_version
from serm.settings import Settings

SAMPLED = "a sample: a person's grade of it tells how right the panel is"


@dataclass(frozen=True)
class Graded:
    """What a panel made of n pairs; each is among the judgments, to review, or both (the sample)."""

    judgments: pa.Table
    """JUDGMENTS of source ``panel``."""
    review: pa.Table
    """REVIEW."""
    votes: pa.Table
    """VOTES."""
    figures: dict[str, Any]

    def write(self, out: Path) -> None:
        """Write it as the annotate step writes its own, for ``serm review``."""
        with replace_directory(out) as beside:
            contracts.write(self.judgments, beside / "judgments", contracts.JUDGMENTS)
            contracts.write(self.review, beside / "review", contracts.REVIEW)
            contracts.write(self.votes, beside / "votes", contracts.VOTES)


def grade_cold(
    pairs: pa.Table, documents: Path, knowledge: pa.Table, settings: Settings, sample: int, cycle: int = 0
) -> Graded:
    """Have the LLM judges of ``judging.llms`` grade ``pairs``; without any, all pairs go to review.

    A grade is kept where the mean of the judges' distributions gives it ``judging.min_confidence``. No judgment is
    known, so that neither examples nor checks are in it: a sample of kept pairs goes to review, where people tell how
    right the panel is. A second run asks nothing that the ledger has.

    Args:
        pairs: query, locale, doc_id; all of documents that are there.
        documents: the catalogue, or what of it is in the pairs.
        knowledge: KNOWLEDGE, what judges may look up.
        settings: uses ``judging`` and ``relevance.base``.
        sample: how many kept pairs go to review too.
        cycle: of the judgments; 0 before the first.

    Raises:
        UserError: an endpoint refuses its key, address or model.
    """
    catalogue = Catalogue.read(documents, settings.judging.knowledge_attribute)
    asked_pairs = catalogue.pairs(pairs)
    draw = np.random.default_rng([settings.judging.seed, cycle]).permutation(len(asked_pairs))
    batch = _batch(asked_pairs, catalogue, knowledge, draw, cycle)
    version = panel_version(batch, settings)
    votes: Mapping[str, Votes] = {"nobody": _nobody(asked_pairs)}
    evidence: dict[str, Sequence[Sequence[Piece]]] = {}
    figures: dict[str, Any] = {}
    if settings.judging.llms:
        asked = ask(batch, settings.judging)
        votes, evidence = asked.votes, {name: asked.evidence for name in asked.votes}
        figures = {name: of["cycle"] for name, of in asked.figures.items()}
    decision = _decided(votes, settings.judging.min_confidence)
    kept = judgments_table(asked_pairs, votes, decision, batch.cycle, version)
    sampled = np.zeros(len(asked_pairs), bool)
    sampled[[row for row in draw.tolist() if decision.kept[row]][:sample]] = True
    to_review = decision.withheld(sampled, SAMPLED)
    review = review_table(
        asked_pairs, votes if settings.judging.llms else {}, to_review, batch.priority, batch.cycle, version
    )
    told = {"pairs": len(asked_pairs), "by_panel": kept.num_rows, "to_review": review.num_rows}
    told |= {"sampled": int(sampled.sum()), "judges": figures, "panel_version": version}
    return Graded(kept, review, votes_table(asked_pairs, votes, evidence), told)


def _batch(pairs: Pairs, catalogue: Catalogue, knowledge: pa.Table, draw: Integers, cycle: int) -> Batch:
    """Return a batch of which nothing is known; its order, which budgets cut, is a random one."""
    priority = np.empty(len(pairs))
    priority[draw] = np.linspace(1, 0, len(pairs)) if len(pairs) else 0
    nothing = contracts.JUDGMENTS.empty_table()
    clicks = contracts.CLICK_ESTIMATES.empty_table()
    return Batch(
        cycle=cycle,
        pairs=pairs,
        priority=priority,
        seed=nothing,
        known=catalogue.pairs(nothing),
        grades=np.zeros(0, np.int64),
        unseen=np.zeros(0, bool),
        catalogue=catalogue,
        knowledge=knowledge,
        clicks=clicks,
        click_settings="",
        shown=Shown(clicks, 0),
        reviewed=nothing,
    )


def _nobody(pairs: Pairs) -> Votes:
    count = len(pairs)
    return Votes(
        np.full(count, ABSTAINED, np.int64),
        np.full((count, GRADES), 1 / GRADES),
        np.zeros(count),
        ["not asked."] * count,
        np.full((1, count), ABSTAINED, np.int64),
        np.ones(count, bool),
    )


def _decided(votes: Mapping[str, Votes], min_confidence: float) -> Decision:
    """Keep by the mean distribution of the judges who graded a pair; half of them at least must have."""
    said = np.stack([of.grades != ABSTAINED for of in votes.values()])
    weight = said / np.maximum(said.sum(axis=0), 1)
    mean = np.sum([of.distribution * share[:, None] for of, share in zip(votes.values(), weight, strict=True)], axis=0)
    decision = confident(votes, mean, min_confidence)
    return decision.withheld(
        decision.kept & (2 * said.sum(axis=0) < len(said)), "fewer than half of the judges graded it"
    )
