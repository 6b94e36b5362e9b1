"""All LLM judges of a batch, asked at once: their votes, the evidence they saw, and how they stood the checks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serm.judging import trust
from serm.judging.batch import Batch
from serm.judging.evidence.retrieval import CatalogueSource, Piece, Retrieval, SearchSource, Source, TableSource
from serm.judging.judge import ABSTAINED, GRADES, Floats, Integers, Votes
from serm.judging.llm import prompt
from serm.judging.llm.budget import NANO, Budget
from serm.judging.llm.calibrate import FEWEST, calibrate, calibration_error
from serm.judging.llm.comparisons import WON
from serm.judging.llm.endpoint import Endpoint
from serm.judging.llm.judge import LLMJudge, Session
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.limits import Breaker
from serm.judging.llm.plan import FRESH, Checks, Plan, examples, pair_id, spread
from serm.judging.llm.vote import Vote, votes
from serm.settings import JudgingSettings
from serm.settings.judging import CriterionSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What the LLM judges made of a batch of n mined and k known pairs."""

    votes: Mapping[str, Votes]
    """On the mined pairs."""
    known_votes: Mapping[str, Votes]
    """On the known pairs; ``ABSTAINED`` where a judge was not asked."""
    known: Integers
    """The rows of the known pairs that were asked."""
    evidence: Sequence[Sequence[Piece]]
    """[n], what the judges were shown with each mined pair."""
    unpaid: NDArray[np.bool_]
    """[n], the pairs that a cap kept from some judge."""
    failed_look_ups: int
    """Look-ups at the search endpoint that failed: those judges went without."""
    figures: Mapping[str, dict[str, Any]]
    """By judge: gold, canaries, repeats, and its calls in this run and over all runs of the cycle."""


@dataclass(frozen=True)
class _Heard:
    """One judge's ballots, in the order of its plan."""

    plan: Plan
    ballots: Sequence[Vote]
    evidence: Sequence[Sequence[Piece]]
    figures: dict[str, Any]

    def part(self, name: str, paths: int) -> Votes:
        return votes(self.ballots[self.plan.parts[name]], paths)

    def grades(self, name: str) -> Integers:
        return np.array([o.grade for o in self.ballots[self.plan.parts[name]]], np.int64)

    def distribution(self, name: str) -> Floats:
        return np.array([o.distribution for o in self.ballots[self.plan.parts[name]]], np.float64).reshape(-1, GRADES)

    def judged(self, name: str) -> NDArray[np.bool_]:
        return np.array([not o.pending for o in self.ballots[self.plan.parts[name]]], bool)


def batch_name(batch: Batch) -> str:
    """Name a batch in the ledger, for example ``cycle-0003``."""
    return f"cycle-{batch.cycle:04d}"


def ask(batch: Batch, settings: JudgingSettings) -> Asked:
    """Ask every LLM judge about the batch; each finished call is in the ledger at once.

    Raises:
        UserError: a key is missing, an endpoint refuses the key or the model, or the ledger is in use.
    """
    ledger = Ledger(settings.ledger)
    try:
        return asyncio.run(_ask(batch, ledger, settings))
    finally:
        ledger.close()


def session(batch: Batch, ledger: Ledger, settings: JudgingSettings) -> tuple[Session, Checks]:
    """Return what the batch's judges share, and what they are checked with."""
    shown = examples(batch, settings.explained_examples)
    queries = {example.query for of in shown.values() for example in of}
    sources: list[Source] = [
        CatalogueSource(
            batch.catalogue.locales, batch.catalogue.doc_ids, batch.catalogue.texts, settings.evidence_documents
        ),
        TableSource(batch.knowledge["key"].to_pylist(), batch.knowledge["text"].to_pylist(), settings.evidence_texts),
    ]
    if settings.search is not None:
        sources.append(SearchSource(settings.search, ledger))
    name = batch_name(batch)
    shared = Session(
        name,
        ledger,
        Budget(settings.budget, *ledger.spent(name)),
        prompt.Prompter(shown, settings.max_document_chars, settings.rubric or ""),
        Retrieval(sources),
    )
    return shared, Checks.of(batch, queries, settings.trust)


async def _ask(batch: Batch, ledger: Ledger, settings: JudgingSettings) -> Asked:
    shared, checks = session(batch, ledger, settings)
    breakers = {llm.base_url: Breaker(llm.patience_seconds) for llm in settings.llms}
    endpoints: dict[str, Endpoint] = {}
    judges = {}
    for llm in settings.llms:
        met = Endpoint.of(llm, breakers[llm.base_url])
        endpoint = endpoints.setdefault(repr([llm.base_url, llm.model, met.spelling]), met)
        judges[llm.name] = LLMJudge(llm, shared, endpoint)
    heard_of = await asyncio.gather(*(_hear(judge, batch, checks, shared, settings) for judge in judges.values()))
    heard = dict(zip(judges, heard_of, strict=True))
    paths = {llm.name: llm.paths for llm in settings.llms}
    known = np.concatenate([checks.gold, checks.anchors])
    evidence: list[Sequence[Piece]] = [()] * len(batch.pairs)
    unpaid = np.zeros(len(batch.pairs), bool)
    for of in heard.values():
        for row, vote, pieces in zip(of.plan.order.tolist(), *_mined(of), strict=True):
            evidence[row] = pieces
            unpaid[row] |= vote.pending == "budget"
    spent = ledger.summary(shared.batch)
    return Asked(
        votes={n: _placed(of.part("mined", paths[n]), of.plan.order, len(batch.pairs)) for n, of in heard.items()},
        known_votes={n: _known(of, known, paths[n], len(batch.known)) for n, of in heard.items()},
        known=known,
        evidence=evidence,
        unpaid=unpaid,
        failed_look_ups=shared.retrieval.failures,
        figures={n: of.figures | {"cycle": spent.get(n, {})} for n, of in heard.items()},
    )


async def _hear(judge: LLMJudge, batch: Batch, checks: Checks, shared: Session, settings: JudgingSettings) -> _Heard:
    plan = Plan.of(batch, checks, shared.ledger.earlier_grades(judge.name, shared.batch), settings.trust)
    figures: dict[str, Any] = {}
    try:
        ballots, evidence = await judge.ballots(plan.pairs, plan.first_path)
        criteria = judge.criteria
        if judge.comparisons:
            couples = plan.couples(batch, judge.comparisons)
            outcomes = await judge.compare(couples, FRESH * batch.cycle)
            ballots, criteria = outcomes.answered(ballots), (*criteria, WON)
            figures["comparisons"] = outcomes.figures()
    finally:
        await judge.close()
    raw = _Heard(plan, ballots, evidence, {})
    start = plan.parts["mined"].start
    graded = [(pair_id(plan.pairs, start + n), o.grade) for n, o in enumerate(_mined(raw)[0]) if o.grade != ABSTAINED]
    await shared.ledger.remember(judge.name, shared.batch, graded)
    of = _calibrated(raw, criteria, checks, batch)
    if criteria and of is raw:
        _LOG.warning(
            "serm: judge %s: its narrow questions and comparisons do not count, for too few known pairs show how they"
            " should: %d of each grade are needed beside the gold pairs; import judgments, grade pairs in serm review,"
            " or raise judging.trust.gold_pairs.",
            judge.name,
            FEWEST,
        )
    of.figures.update(
        figures
        | {
            "gold": trust.ratings(
                of.grades("gold"),
                batch.grades[checks.gold],
                of.grades("gold") != ABSTAINED,
                batch.known.take(checks.gold).locales,
            ),
            "canaries": _canaries(of, checks),
            "padded": _padded(of, checks),
            "repeats": _repeats(raw),
            "calibration": _calibration(raw, of, checks, batch),
            "this_run": _counts(judge),
        }
    )
    return of


def _mined(of: _Heard) -> tuple[Sequence[Vote], Sequence[Sequence[Piece]]]:
    part = of.plan.parts["mined"]
    return of.ballots[part], of.evidence[part]


def _canaries(of: _Heard, checks: Checks) -> dict[str, Any]:
    """Share withstood of the canaries that were judged, and the attacks that were not withstood."""
    judged = of.judged("canaries")
    clean = np.maximum(of.grades("gold")[checks.clean], 0) if len(judged) else np.zeros(0, np.int64)
    stood = trust.withstood(of.grades("canaries"), clean)
    fell = sorted({attack for attack, j, s in zip(checks.attacks, judged, stood, strict=True) if j and not s})
    share = round(float(stood[judged].mean()), 4) if judged.any() else None
    return {"asked": len(judged), "judged": int(judged.sum()), "withstood": share, "obeyed": fell}


def _padded(of: _Heard, checks: Checks) -> dict[str, Any]:
    """By how much the grades of padded documents lie above those of the same documents without, on the mean."""
    padded, bare = of.grades("padded"), of.grades("gold")[checks.bare]
    moved = (padded - bare)[(padded != ABSTAINED) & (bare != ABSTAINED)]
    shift = round(float(moved.mean()), 4) if len(moved) else None
    return {"asked": len(padded), "judged": len(moved), "shift": shift}


def _calibrated(raw: _Heard, criteria: Sequence[CriterionSettings], checks: Checks, batch: Batch) -> _Heard:
    """Return the votes with probabilities that hold on known pairs: seed judgments and people's grades."""
    parts = [raw.plan.parts[name] for name in ("anchors", "reviewed")]
    known = [vote for part in parts for vote in raw.ballots[part]]
    queries = [query for part in parts for query in raw.plan.pairs.queries[part]]
    fitted = calibrate(known, np.concatenate([batch.grades[checks.anchors], checks.reviewed_grades]), queries, criteria)
    if fitted is None:
        return raw
    ballots, start = fitted.votes(raw.ballots), 0
    for part in parts:
        count = part.stop - part.start
        ballots[part] = fitted.known[start : start + count]
        start += count
    return replace(raw, ballots=ballots, figures={})


def _calibration(raw: _Heard, of: _Heard, checks: Checks, batch: Batch) -> dict[str, Any]:
    """On how many pairs the judge was calibrated, and its calibration error on gold without and with that."""
    judged = of.grades("gold") != ABSTAINED
    grades = batch.grades[checks.gold][judged]
    before, after = (one.distribution("gold")[judged] for one in (raw, of))
    return {
        "calibrated": of is not raw,
        "seed_pairs": int((raw.grades("anchors") != ABSTAINED).sum()),
        "people_pairs": int((raw.grades("reviewed") != ABSTAINED).sum()),
        "gold_error_before": calibration_error(before, grades),
        "gold_error": calibration_error(after, grades),
    }


def _repeats(of: _Heard) -> dict[str, Any]:
    """Share of repeated pairs that were graded as before, and by how much the grade moved on the mean."""
    grades = of.grades("repeats")
    voted = grades != ABSTAINED
    moved = (grades - of.plan.repeated)[voted]
    if not voted.any():
        return {"asked": len(grades), "judged": 0, "same": None, "shift": None}
    return {
        "asked": len(grades),
        "judged": int(voted.sum()),
        "same": round(float((moved == 0).mean()), 4),
        "shift": round(float(moved.mean()), 4),
    }


def _counts(judge: LLMJudge) -> dict[str, Any]:
    counts = {name: count for name, count in sorted(judge.counts.items()) if name != "cost"}
    return counts | {"cost": round(judge.counts["cost"] / NANO, 6)}


def _placed(of: Votes, rows: Integers, count: int) -> Votes:
    """Put votes in their rows among ``count``; ``ABSTAINED`` elsewhere."""
    said = dict(zip(rows.tolist(), of.rationales, strict=True))
    return Votes(
        spread(of.grades, rows, count, ABSTAINED),
        spread(of.distribution, rows, count, 1 / GRADES),
        spread(of.within_agreement, rows, count, 0.0),
        [said.get(row, "not asked.") for row in range(count)],
        spread(of.paths.T, rows, count, ABSTAINED).T,
        np.zeros(count, bool),
    )


def _known(of: _Heard, rows: Integers, paths: int, count: int) -> Votes:
    first, last = of.plan.parts["gold"].start, of.plan.parts["anchors"].stop
    return _placed(votes(of.ballots[first:last], paths), rows, count)
