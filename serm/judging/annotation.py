"""The annotate step: mined pairs in, labels that the panel agrees on out, every other pair to review."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.judging import trust
from serm.judging.calibration import CalibratedJudge, Evidence
from serm.judging.catalogue import Catalogue
from serm.judging.encoder import Embeddings, EncoderEvidence
from serm.judging.lexical import LexicalEvidence
from serm.judging.outside import OutsideEvidence
from serm.judging.panel import Panel
from serm.judging.records import judgments_table, review_table, votes_table
from serm.judging.seed import held_out, read_seed
from serm.relevance import load_encoder
from serm.settings import Settings
from serm.step import Figures, step


@step
def annotate(mined: Path, validated: Path, judgments: Path, knowledge: Path, out: Path, settings: Settings) -> Figures:
    """Grade the mined pairs by the panel.

    Writes ``out`` with judgments/ (JUDGMENTS: the kept labels), review/ (REVIEW: the other pairs), votes/ (VOTES)
    and panel.json: figures of each judge and of each panel, with and without the outside knowledge, on seed
    queries that no judge was calibrated on. Each mined pair is in exactly one of judgments/ and review/.

    Args:
        mined: what ``mine`` wrote.
        validated: what ``validate`` wrote; its documents/ is the catalogue.
        judgments: all judgments so far (JUDGMENTS); only those of source ``seed`` are used.
        knowledge: what judges may look up (KNOWLEDGE).
        out: the directory to write.
        settings: ``judging``, ``relevance`` and ``cycle.number`` are used.

    Raises:
        UserError: a dataset is missing, a mined document is not in the catalogue, or there are too few seed
            judgments.
    """
    order = [("locale", "ascending"), ("query", "ascending"), ("doc_id", "ascending")]
    table = contracts.read(mined / "pairs", contracts.MINED_PAIRS).sort_by(order)
    catalogue = Catalogue.read(validated / "documents", settings.judging.knowledge_attribute)
    look_ups = contracts.read(knowledge, contracts.KNOWLEDGE)
    seed = read_seed(judgments, catalogue.doc_ids, settings.judging)
    unseen = held_out(seed, settings.judging)
    pairs, known, grades = catalogue.pairs(table), catalogue.pairs(seed), seed["grade"].to_numpy().astype(np.int64)

    seen = np.flatnonzero(~unseen)
    judges = [
        CalibratedJudge(evidence, known.take(seen), grades[seen], settings.judging.paths, settings.judging.seed)
        for evidence in _evidence(catalogue, look_ups, settings)
    ]
    panel = Panel({j.name: j.judge(pairs) for j in judges}, {j.name: j.judge(known) for j in judges}, grades, unseen)
    decision, figures = panel.decide(settings.judging)
    _, figures_without = panel.without(OutsideEvidence.name).decide(settings.judging)
    version = _panel_version(seed, look_ups, settings)
    kept = int(decision.kept.sum())
    held = np.flatnonzero(unseen)
    summary: dict[str, Any] = {
        "panel_version": version,
        "agreement": settings.judging.agreement,
        "calibration": {"pairs": len(seen), "queries": len(set(known.take(seen).queries))},
        "held_out": {"pairs": len(held), "queries": len(set(known.take(held).queries))},
        "judges": {n: trust.measure_judge(v.take(held), grades[held]) for n, v in panel.known_votes.items()},
        "panels": {"all judges": figures, "without outside knowledge": figures_without},
        "mined": len(pairs),
        "kept": kept,
        "dropped": len(pairs) - kept,
        "by_grade": {str(grade): n for grade, n in Counter(decision.grades[decision.kept].tolist()).items()},
    }
    labels = judgments_table(pairs, panel.votes, decision, settings.cycle.number, version)
    review = review_table(pairs, panel.votes, decision, table["priority"], settings.cycle.number, version)
    if labels.num_rows + review.num_rows != len(pairs):
        raise AssertionError(f"{len(pairs)} pairs mined, {labels.num_rows} kept, {review.num_rows} to review")
    with replace_directory(out) as beside:
        contracts.write(labels, beside / "judgments", contracts.JUDGMENTS)
        contracts.write(review, beside / "review", contracts.REVIEW)
        contracts.write(votes_table(pairs, panel.votes), beside / "votes", contracts.VOTES)
        write_json(beside / "panel.json", summary)
    level = figures[settings.judging.agreement]
    return {
        "mined": len(pairs),
        "kept": kept,
        "keep_rate": round(kept / max(len(pairs), 1), 4),
        "held_out_accuracy": level["accuracy"] or 0.0,
        "held_out_base_rate": level["base_rate"] or 0.0,
        "panel_version": version,
    }


def _evidence(catalogue: Catalogue, knowledge: pa.Table, settings: Settings) -> list[Evidence]:
    embeddings = Embeddings(load_encoder(settings.relevance.base, settings.relevance))
    return [
        LexicalEvidence(catalogue.locales, catalogue.titles),
        EncoderEvidence(embeddings, catalogue.locales, catalogue.doc_ids, catalogue.texts),
        OutsideEvidence(embeddings, knowledge["key"].to_pylist(), knowledge["text"].to_pylist()),
    ]


def _panel_version(seed: pa.Table, knowledge: pa.Table, settings: Settings) -> str:
    """Hash (12 hex digits) what the judges depend on: their settings, encoder, calibration data and knowledge."""
    digest = hashlib.sha256(settings.judging.model_dump_json().encode())
    digest.update(settings.relevance.base.encode())
    for table in (seed.select(["query", "locale", "doc_id", "grade"]), knowledge):
        for row in zip(*table.to_pydict().values(), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()[:12]
