"""The step that compares a window with the reference and decides whether the model must evolve."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.drift import columns, novelty
from serm.errors import UserError
from serm.settings import DriftSettings, Settings
from serm.step import Figures, step


@step
def detect(reference: Path, validated: Path, out: Path, settings: Settings) -> Figures:
    """Decide ``evolve`` or ``quiet``, with reasons, and write them to ``out/drift.json`` beside Evidently's report.

    ``reference`` is an IMPRESSIONS dataset, ``validated`` what validate wrote. The decision is ``evolve`` when a
    column or the text has drifted, when more searches are for new queries than chance explains, or when a new
    locale has a share of searches worth naming; see ``DriftSettings``.

    Raises:
        UserError: the reference or the window is missing or has no rows.
    """
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        before = contracts.scan(engine, reference, contracts.IMPRESSIONS)
        now = contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS)
        for path, table in ((reference, before), (validated / "impressions", now)):
            if not table.count().to_pyarrow().as_py():
                raise UserError(f"{path}: no impressions to compare; run the step before on a window that has some.")
        drifts, sampled = columns.compare(before, now, settings.drift, beside)
        news = novelty.find(before, now)
        reasons = _reasons(drifts, news, settings.drift)
        decision = "evolve" if reasons else "quiet"
        write_json(
            beside / "drift.json",
            {
                "decision": decision,
                "reasons": reasons,
                "columns": {name: asdict(drift) for name, drift in drifts.items()},
                "sampled": sampled,
                **asdict(news),
            },
        )
    return {
        "decision": decision,
        "drifted_columns": sum(drift.drifted for drift in drifts.values()),
        "new_query_share": round(news.new_query_share, 4),
        "new_locales": len(news.new_locales),
    }


def _reasons(drifts: dict[str, columns.Drift], news: novelty.Novelty, settings: DriftSettings) -> list[str]:
    reasons = [
        f"{name} drifted: {drift.method} is {drift.distance:.3f}, the limit {drift.threshold:g}"
        for name, drift in drifts.items()
        if drift.drifted
    ]
    beyond_chance = news.new_query_share - news.expected_new_query_share - news.new_query_margin
    if beyond_chance > settings.min_new_query_share:
        reasons.append(
            f"{news.new_query_share:.1%} of searches are for queries that the reference lacks, "
            f"{news.expected_new_query_share:.1%} (+{news.new_query_margin:.1%}) by chance"
        )
    reasons += [
        f"locale {locale} is new: {share:.1%} of searches"
        for locale, share in news.new_locales.items()
        if share > settings.min_new_query_share
    ]
    return reasons
