"""From impressions to the pairs that the champion scores, all in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa

from serm import clicks
from serm.clicks import PAIR, PositionBasedModel
from serm.mining import click_model, feedback
from serm.mining.opinion import Thresholds
from serm.settings import MiningSettings

if TYPE_CHECKING:
    from ibis.expr.types import BooleanValue

#: The dwell time that counts as half engaged; 30 seconds is the usual mark of a satisfied click (Fox et al.,
#: "Evaluating implicit measures to improve web search", TOIS 2005).
SATISFIED_SECONDS = 30.0
_MILLION = 1_000_000


def count(impressions: ibis.Table, version: str) -> ibis.Table:
    """Reduce impressions to ``clicks.count``'s rows with what the agents need, in one pass over the log.

    Adds negatives (impressions with negative feedback), engaged (the sum over clicks of dwell / (dwell + 30 s),
    in whole millionths, because integers add up alike in any order) and logged (the score that the model
    ``version`` gave, null if it gave none).
    """
    dwell = impressions.dwell_seconds
    engaged = (dwell / (dwell + SATISFIED_SECONDS) * _MILLION).round().cast("int64")
    return clicks.count(
        impressions,
        negatives=impressions.negative_feedback.sum(),
        engaged=engaged.sum(where=impressions.clicked),
        logged=impressions.score.max(where=impressions.model_version == version),
    )


def describe(counts: ibis.Table, model: PositionBasedModel, judgments: ibis.Table) -> ibis.Table:
    """Return one row for each pair, numbered ``pair``.

    Columns: query, locale, doc_id, impressions, clicks, logged, judged (a judgment exists), and, all 0 to 1:
    engagement (U: mean engagement over clicks and negative feedbacks, the latter counting as 0, with one more 0
    so that one long visit does not win), attractiveness and its standard_error, relevance (R_cm: the one less
    the other), novelty (the share of the query's impressions whose document is not judged for it).
    """
    pairs = counts.group_by("pair", *PAIR).aggregate(
        impressions=counts.impressions.sum(),
        clicks=counts.clicks.sum(),
        negatives=counts.negatives.sum(),
        engaged=counts.engaged.sum().fill_null(0),
        logged=counts.logged.max(),
    )
    estimates = pa.table(
        {
            "pair": np.arange(len(model.attractiveness)),
            "attractiveness": model.attractiveness,
            "standard_error": model.standard_error,
            "relevance": model.attractiveness - model.standard_error,
        }
    )
    judged = judgments.select(*PAIR).distinct().mutate(judged=True)
    pairs = pairs.join(ibis.memtable(estimates), "pair").left_join(judged, PAIR, rname="{name}_of_judgment")
    pairs = pairs.mutate(judged=pairs.judged.fill_null(False))
    query = ibis.window(group_by=["query", "locale"])
    shown = pairs.impressions.sum().over(query)
    shown_unjudged = (~pairs.judged).ifelse(pairs.impressions, 0).sum().over(query)
    return pairs.select(
        "pair",
        *PAIR,
        *("impressions", "clicks", "logged", "judged", "attractiveness", "standard_error", "relevance"),
        engagement=pairs.engaged / _MILLION / (pairs.clicks + pairs.negatives + 1),
        novelty=shown_unjudged / shown,
    )


def to_score(
    candidates: ibis.Table, thresholds: Thresholds, settings: MiningSettings
) -> tuple[ibis.Table, dict[str, int]]:
    """Return the candidates that the champion scores, at most ``max_scored``, and how many of each kind.

    First the suspects: pairs that users' clicks speak for, unless the log already shows that the champion thinks
    well of them. At most half of the places are theirs, strongest first, as long as others can fill the rest.
    The others are a sample over all locales in proportion, so that what the champion is unsure of is also found
    where users gave no hint. ``weight`` is the number of candidates that a scored one stands for.
    """
    key = f"{settings.seed}\x1f" + candidates.query + "\x1f" + candidates.locale + "\x1f" + candidates.doc_id
    candidates = candidates.mutate(draw=key.hexdigest("md5"), suspect=_suspect(candidates, thresholds))
    suspects, others = candidates.filter(candidates.suspect), candidates.filter(~candidates.suspect)
    all_suspects, all_others = (int(part.count().to_pyarrow().as_py()) for part in (suspects, others))
    places = settings.max_scored
    scored_suspects = min(all_suspects, max(places // 2, places - all_others))
    scored_others = min(all_others, places - scored_suspects)

    by_engagement = ibis.row_number().over(order_by=[ibis.desc("engagement"), "draw"])
    by_relevance = ibis.row_number().over(order_by=[ibis.desc("relevance"), "draw"])
    suspects = suspects.mutate(turn=ibis.least(by_engagement, by_relevance).cast("float64"))
    in_locale = ibis.row_number().over(group_by="locale", order_by="draw")
    of_locale = others.count().over(group_by="locale")
    others = others.mutate(turn=(in_locale + 1) / of_locale)
    parts = [
        part.order_by("turn", "draw").limit(scored).mutate(weight=ibis.literal(total / max(scored, 1)))
        for part, total, scored in ((suspects, all_suspects, scored_suspects), (others, all_others, scored_others))
    ]
    return ibis.union(*parts), {"suspects": scored_suspects, "sampled": scored_others}


def _suspect(candidates: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    welcomed = feedback.welcomed(candidates, thresholds) | click_model.attracts(candidates, thresholds)
    return welcomed & (candidates.logged.isnull() | (candidates.logged < thresholds.under_scored_below))
