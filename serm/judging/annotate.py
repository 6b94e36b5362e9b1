"""The annotate step: mined pairs in, labels that the panel agrees on out, every other pair to review."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.judging import trust
from serm.judging.batch import Batch
from serm.judging.evidence.outside import OutsideEvidence
from serm.judging.llm.ask import Asked, ask
from serm.judging.records import judgments_table, review_table, votes_table
from serm.judging.seating import seat
from serm.judging.version import panel_version
from serm.settings import Settings
from serm.step import Figures, step

_LOG = logging.getLogger(__name__)


@step
def annotate(mined: Path, validated: Path, judgments: Path, knowledge: Path, out: Path, settings: Settings) -> Figures:
    """Grade the mined pairs by the panel.

    Writes ``out`` with judgments/ (JUDGMENTS: the kept labels), review/ (REVIEW: the other pairs), votes/ (VOTES)
    and annotate.json: figures of each judge and of each panel, with and without the outside knowledge, on seed
    queries that no judge was calibrated on. Each mined pair is in exactly one of judgments/ and review/, unless its
    document is gone: those are retired and counted. A batch that fails a bar of ``judging.trust`` is held: judgments/
    is empty and all pairs are in review/. So is one of LLM judges that a bar could not be measured on; an offline one
    goes on, and annotate.json says under ``not_measured`` why the gate cannot pass.

    Args:
        mined: what ``mine`` wrote: the pairs, and what users did.
        validated: what ``validate`` wrote; its documents/ is the catalogue.
        judgments: all judgments so far (JUDGMENTS); only those of source ``seed`` are used.
        knowledge: what judges may look up (KNOWLEDGE).
        out: the directory to write.
        settings: ``judging``, ``relevance``, ``engine`` and ``cycle.number`` are used.

    Raises:
        UserError: a dataset is missing, no mined document is in the catalogue, there are too few seed
            judgments, or an LLM judge's endpoint refuses its key, address or model.
    """
    batch = Batch.read(mined, validated, judgments, knowledge, settings)
    asked = ask(batch, settings.judging) if settings.judging.llms else None
    panel, rows = seat(batch, asked, settings)
    decided = panel.decide(settings.judging)
    panels = {"all judges": decided.figures}
    if OutsideEvidence.name in panel.votes:
        panels["without outside knowledge"] = panel.without(OutsideEvidence.name).decide(settings.judging).figures
    held = panel.held_out
    of_gold = trust.ratings(
        decided.gold.grades, panel.known_grades[held], decided.gold.kept, batch.known.take(rows[held]).locales
    )
    found = trust.check_bars(of_gold, asked.figures if asked else {}, settings.judging.trust)
    # LLM judges are known by these checks alone; offline ones are calibrated on the seed judgments.
    failures = found.failed + (found.not_measured if asked else [])
    decision = decided.pairs
    if failures:
        decision = decision.withheld(np.ones(len(batch.pairs), bool), "held: " + " ".join(failures))
        _LOG.warning("serm: the batch is held, none of its labels may be used: %s", " ".join(failures))
    elif found.not_measured:
        _LOG.warning("serm: the panel's trust is not known, so the gate cannot pass: %s", " ".join(found.not_measured))
    if asked:
        decision = decision.withheld(asked.unpaid, "budget: a cap was reached before every judge was asked.")
    version = panel_version(batch, settings)
    kept = int(decision.kept.sum())
    known = batch.known.take(rows)
    summary: dict[str, Any] = {
        "panel_version": version,
        "agreement": settings.judging.agreement,
        "calibration": _size(known.take(np.flatnonzero(~held)).queries),
        "held_out": _size(known.take(np.flatnonzero(held)).queries),
        "judges": {
            name: trust.measure_judge(votes.take(np.flatnonzero(held)), panel.known_grades[held])
            for name, votes in panel.known_votes.items()
        },
        "panels": panels,
        "gold": of_gold,
        "held": failures,
        "not_measured": found.not_measured,
        "mined": len(batch.pairs),
        "retired": batch.retired,
        "kept": kept,
        "dropped": len(batch.pairs) - kept,
        "by_grade": {str(grade): n for grade, n in Counter(decision.grades[decision.kept].tolist()).items()},
    }
    if asked:
        summary["llms"] = asked.figures
        summary["unpaid"] = int(asked.unpaid.sum())
        summary["failed_look_ups"] = asked.failed_look_ups
    labels = judgments_table(batch.pairs, panel.votes, decision, batch.cycle, version)
    review = review_table(batch.pairs, panel.votes, decision, batch.priority, batch.cycle, version)
    if labels.num_rows + review.num_rows != len(batch.pairs):
        raise AssertionError(f"{len(batch.pairs)} mined, {labels.num_rows} kept, {review.num_rows} to review")
    evidence = {name: asked.evidence for name in asked.votes} if asked else {}
    with replace_directory(out) as beside:
        contracts.write(labels, beside / "judgments", contracts.JUDGMENTS)
        contracts.write(review, beside / "review", contracts.REVIEW)
        contracts.write(votes_table(batch.pairs, panel.votes, evidence), beside / "votes", contracts.VOTES)
        write_json(beside / "annotate.json", summary)
    level = decided.figures[settings.judging.agreement]
    return {
        "mined": len(batch.pairs),
        "retired": batch.retired,
        "kept": kept,
        "keep_rate": round(kept / max(len(batch.pairs), 1), 4),
        "held_out_accuracy": level["accuracy"] or 0.0,
        "held_out_base_rate": level["base_rate"] or 0.0,
        "panel_version": version,
        **({"held": " ".join(failures)} if failures else {}),
        **({"not_measured": " ".join(found.not_measured)} if found.not_measured else {}),
        **(_spent(asked) if asked else {}),
    }


def _size(queries: list[str]) -> dict[str, int]:
    return {"pairs": len(queries), "queries": len(set(queries))}


def _spent(asked: Asked) -> Figures:
    """What the LLM judges of the cycle cost, over all runs of the step."""
    of = asked.figures.values()
    return {
        "llm_calls": sum(int(judge["cycle"].get("calls", 0)) for judge in of),
        "llm_cost": round(sum(float(judge["cycle"].get("cost", 0)) for judge in of), 6),
        "llm_calls_saved": sum(int(judge["this_run"].get("saved", 0)) for judge in of),
        "unpaid": int(asked.unpaid.sum()),
    }
