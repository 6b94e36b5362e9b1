"""The annotate step: mined pairs in, labels that the panel agrees on out, every other pair to review."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.judging import trust
from serm.judging.agreement import Decision
from serm.judging.batch import Batch
from serm.judging.evidence.outside import OutsideEvidence
from serm.judging.evidence.user_likelihood import Counts
from serm.judging.judge import Floats, Pairs
from serm.judging.llm.ask import Asked, ask
from serm.judging.panel import Panel
from serm.judging.posterior import Posterior, believed
from serm.judging.records import judgments_table, review_table, shown_table, votes_table
from serm.judging.seating import seat
from serm.judging.shown import Shown, log_likelihood
from serm.judging.version import panel_version
from serm.settings import Settings
from serm.step import Figures, step

_LOG = logging.getLogger(__name__)


@step
def annotate(mined: Path, validated: Path, judgments: Path, knowledge: Path, out: Path, settings: Settings) -> Figures:
    """Grade the mined pairs by the panel.

    Writes ``out`` with judgments/ (JUDGMENTS: the kept labels), review/ (REVIEW: the other pairs), votes/ (VOTES),
    shown/ (JUDGMENTS, source ``shown``: the other pairs that users were shown ``judging.min_impressions`` times, each
    with the belief in its grades, however unsure; empty unless ``judging.agreement`` is posterior and what users did
    counts) and annotate.json: figures of each judge and of each panel, with and without the outside knowledge, on seed
    queries that no judge was calibrated on. Each mined pair is in exactly one of judgments/ and review/, unless its
    document is gone: those are retired and counted. A batch that fails a bar of ``judging.trust`` is held: judgments/
    and shown/ are empty and all pairs are in review/. So is one of LLM judges that a bar could not be measured on; an
    offline one goes on, and annotate.json says under ``not_measured`` why the gate cannot pass.

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
    seated = seat(batch, asked, settings)
    panel, rows = seated.panel, seated.rows
    posterior = panel.posterior()
    seen = batch.shown if posterior.users else Shown(batch.shown.clicks.slice(0, 0), batch.shown.of)
    likelihood = log_likelihood(seen, batch.catalogue, seated.look, posterior)
    moved = _moved(posterior, panel, seen.clicks)
    decided = panel.decide(settings.judging, posterior, moved.prior)
    panels = {"all judges": decided.figures}
    if OutsideEvidence.name in panel.votes:
        others = panel.without(OutsideEvidence.name)
        of_others = others.posterior()
        panels["without outside knowledge"] = others.decide(settings.judging, of_others, of_others.prior).figures
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
    seen_pairs, belief = _of_shown(seen, believed(moved.prior.shown, likelihood), batch.pairs, decision)
    if failures:
        seen_pairs, belief = seen_pairs.slice(0, 0), belief[:0]
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
        "posterior": moved.summary()
        | {"held_out": posterior.figures(panel.known_clues.take(np.flatnonzero(held)), panel.known_grades[held])},
        "shown": {
            "pairs": seen.of,
            "looked_at": seen.clicks.num_rows,
            "labelled": seen_pairs.num_rows,
            "by_grade": {str(grade): round(float(total), 1) for grade, total in enumerate(belief.sum(axis=0))},
        },
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
        contracts.write(shown_table(seen_pairs, belief, batch.cycle, version), beside / "shown", contracts.JUDGMENTS)
        contracts.write(review, beside / "review", contracts.REVIEW)
        contracts.write(votes_table(batch.pairs, panel.votes, evidence), beside / "votes", contracts.VOTES)
        write_json(beside / "annotate.json", summary)
    level = decided.figures[settings.judging.agreement]
    return {
        "mined": len(batch.pairs),
        "retired": batch.retired,
        "kept": kept,
        "keep_rate": round(kept / max(len(batch.pairs), 1), 4),
        "shown": seen_pairs.num_rows,
        "held_out_accuracy": level["accuracy"] or 0.0,
        "held_out_base_rate": level["base_rate"] or 0.0,
        "panel_version": version,
        **({"held": " ".join(failures)} if failures else {}),
        **({"not_measured": " ".join(found.not_measured)} if found.not_measured else {}),
        **(_spent(asked) if asked else {}),
    }


def _moved(posterior: Posterior, panel: Panel, shown: pa.Table) -> Posterior:
    """Move the prior to the window: to its ``shown`` pairs (CLICK_ESTIMATES), and to mined ones that nobody has seen.

    Where no shown pair was looked at, those among the mined ones stand for them.
    """
    mined = panel.clues
    did = Counts.read(shown) if shown.num_rows else mined.counts.take(mined.counts.seen)
    return posterior.moved(did, posterior.log_likelihood(mined.take(np.flatnonzero(~mined.counts.seen))))


def _of_shown(seen: Shown, belief: Floats, mined: Pairs, decision: Decision) -> tuple[pa.Table, Floats]:
    """Return the shown pairs (query, locale, doc_id) without the kept ones, and the belief in each.

    A mined pair's is the panel's, which knows what LLM judges said too.
    """
    pairs = seen.clicks.select(["query", "locale", "doc_id"])
    place = {key: row for row, key in enumerate(zip(mined.queries, mined.locales, mined.doc_ids, strict=True))}
    keys = zip(*(pairs[name].to_pylist() for name in pairs.column_names), strict=True)
    rows = np.array([place.get(key, -1) for key in keys], np.int64)
    if decision.distribution is not None and len(mined):
        belief = np.where(rows[:, None] >= 0, decision.distribution[rows], belief)
    left = np.flatnonzero((rows < 0) | ~np.append(decision.kept, False)[rows])
    return pairs.take(pa.array(left)), belief[left]


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
