"""Grades where nothing is judged yet: by LLM judges, checked with made-up pairs of known answers, and by people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import replace_directory
from serm.judging import trust
from serm.judging.agreement import Decision, confident
from serm.judging.batch import Batch
from serm.judging.evidence.catalogue import Catalogue
from serm.judging.evidence.retrieval import Piece
from serm.judging.judge import ABSTAINED, GRADES, Integers, Pairs, Votes
from serm.judging.known_answers import KnownAnswers, known_answers
from serm.judging.llm.ask import Asked, ask
from serm.judging.records import judgments_table, review_table, votes_table
from serm.judging.shown import Shown
from serm.judging.version import panel_version
from serm.settings import Settings
from serm.settings.judging import TrustSettings

_LOG = logging.getLogger(__name__)
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
    known, so that no examples are in it. What checks the judges is made up (``known_answers``), with planted orders and
    padding as in any batch: where a judge fails a bar of ``judging.trust``, all pairs go to review. A sample of kept
    pairs goes there too, where people tell how right the panel is. A second run asks nothing that the ledger has.

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
    known = known_answers(asked_pairs, catalogue, settings.judging.seed)
    batch = _batch(asked_pairs, catalogue, knowledge, draw, cycle, known)
    version = panel_version(batch, settings)
    votes: Mapping[str, Votes] = {"nobody": _nobody(asked_pairs)}
    evidence: dict[str, Sequence[Sequence[Piece]]] = {}
    figures: dict[str, Any] = {}
    bars = trust.Bars()
    if settings.judging.llms and len(asked_pairs):
        asked = ask(batch, settings.judging)
        votes, evidence = asked.votes, {name: asked.evidence for name in asked.votes}
        figures = {name: of["cycle"] | {"checks": _checks(asked, name, known)} for name, of in asked.figures.items()}
        _hold(bars, figures, known, settings.judging.trust)
    decision = _decided(votes, settings.judging.min_confidence)
    if failures := bars.failed + bars.not_measured:
        decision = decision.withheld(np.ones(len(asked_pairs), bool), "held: " + " ".join(failures))
        _LOG.warning("serm: no grade of the panel is kept, all pairs are for people: %s", " ".join(failures))
    kept = judgments_table(asked_pairs, votes, decision, batch.cycle, version)
    sampled = np.zeros(len(asked_pairs), bool)
    sampled[[row for row in draw.tolist() if decision.kept[row]][:sample]] = True
    to_review = decision.withheld(sampled, SAMPLED)
    review = review_table(
        asked_pairs, votes if settings.judging.llms else {}, to_review, batch.priority, batch.cycle, version
    )
    told = {"pairs": len(asked_pairs), "by_panel": kept.num_rows, "to_review": review.num_rows}
    told |= {"sampled": int(sampled.sum()), "judges": figures, "panel_version": version}
    told |= {"held": " ".join(failures)} if failures else {}
    return Graded(kept, review, votes_table(asked_pairs, votes, evidence), told)


def _checks(asked: Asked, name: str, known: KnownAnswers) -> dict[str, Any]:
    """Return what came of a judge's checks."""
    of = asked.figures[name]
    judged, right = known.right(asked.known, asked.known_votes[name].grades[asked.known])
    told = {"asked": len(asked.known), "judged": judged, "right": right}
    return {"known_answers": told} | {check: of[check] for check in ("canaries", "padded", "repeats")}


def _hold(bars: trust.Bars, figures: Mapping[str, Any], known: KnownAnswers, settings: TrustSettings) -> None:
    """Hold the judges to their bars; ``bars`` has then what they failed."""
    if not (known.grades == 0).any():
        bars.not_measured.append(
            "every document shares something with each query, so that no answer is known to check a judge with."
        )
        return
    for name, of in figures.items():
        told = of["checks"]["known_answers"]
        enough = 2 * told["judged"] >= told["asked"]
        lack = f"it judged {told['judged']} of {told['asked']}, fewer than half"
        what = f"the share of {name}'s grades of pairs with known answers that are right"
        bars.at_least(what, told["right"] if enough else None, settings.min_known_answers, lack)
    trust.hold_llms(bars, {name: of["checks"] for name, of in figures.items()}, settings)


def _batch(
    pairs: Pairs, catalogue: Catalogue, knowledge: pa.Table, draw: Integers, cycle: int, known: KnownAnswers
) -> Batch:
    """Return a batch of which no more is known than made-up pairs; its order, which budgets cut, is a random one."""
    priority = np.empty(len(pairs))
    priority[draw] = np.linspace(1, 0, len(pairs)) if len(pairs) else 0
    nothing = contracts.JUDGMENTS.empty_table()
    clicks = contracts.CLICK_ESTIMATES.empty_table()
    return Batch(
        cycle=cycle,
        pairs=pairs,
        priority=priority,
        seed=nothing,
        known=known.pairs,
        grades=known.grades,
        unseen=np.ones(len(known.grades), bool),
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
