"""From impressions to the pairs that the champion scores, all in the engine."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serm import clicks
from serm.clicks import PAIR, Estimates
from serm.mining import click_model, feedback, hard_negative, novelty, rejection
from serm.mining.opinion import Thresholds
from serm.pairs.documents import with_documents
from serm.settings import ClickSettings, MiningSettings

if TYPE_CHECKING:
    from ibis.backends import BaseBackend
    from ibis.expr.types import BooleanValue

    from serm.relevance import Model

#: A query's popularity, most popular first.
SEGMENTS = ("head", "torso", "tail")
_MILLION = 1_000_000
#: A click's dwell time that counts: shorter ones are taken for it, as the log of 0 is nothing.
_SHORTEST = 0.1
#: The columns that are 0, and not unknown, for a pair that nobody was shown.
_COUNTED = ("impressions", "clicks", "negatives", "engagement", "weight")


def count(impressions: ibis.Table, version: str, middle: datetime, satisfied_seconds: float) -> ibis.Table:
    """Reduce impressions to ``clicks.count``'s rows with what the agents need, in one pass over the log.

    Adds negatives (impressions with negative feedback), satisfied (clicks of ``satisfied_seconds`` or more), engaged
    (the sum over clicks of dwell / (dwell + satisfied_seconds), half for one that just satisfies; in whole millionths,
    because integers add up alike in any order), dwells (clicks whose dwell time is known) and log_dwell (the sum of its
    natural logarithm in seconds, in millionths too), logged (the score that the model ``version`` gave, null if it gave
    none) and late (impressions from ``middle`` on).
    """
    dwell = impressions.dwell_seconds
    engaged = (dwell / (dwell + satisfied_seconds) * _MILLION).round().cast("int64")
    log_dwell = (ibis.greatest(dwell, _SHORTEST).ln() * _MILLION).round().cast("int64")
    return clicks.count(
        impressions,
        negatives=impressions.negative_feedback.sum(),
        satisfied=(impressions.clicked & (dwell >= satisfied_seconds)).sum(),
        engaged=engaged.sum(where=impressions.clicked),
        dwells=(impressions.clicked & dwell.notnull()).sum(),
        log_dwell=log_dwell.sum(where=impressions.clicked),
        logged=impressions.score.max(where=impressions.model_version == version),
        late=(impressions.event_time >= middle).sum(),
    )


def estimates(counts: ibis.Table, model: Estimates, settings: ClickSettings, tests: ibis.Table) -> ibis.Table:
    """Return CLICK_ESTIMATES, one row for each pair of ``counts``, to which ``model`` was fitted by ``settings``.

    ``tests`` has the texts (``query``) of the window's queries that ask as a test query does.
    """
    pairs = counts.group_by("pair", *PAIR).aggregate(
        impressions=counts.impressions.sum(),
        clicks=counts.clicks.sum(),
        satisfied=counts.satisfied.sum().fill_null(0),
        disliked=counts.negatives.sum().fill_null(0),
        dwells=counts.dwells.sum().fill_null(0),
        log_dwell=counts.log_dwell.sum().fill_null(0),
    )
    names = ("attractiveness", "standard_error", "relevance", "relevance_error", "examined")
    fitted = {"pair": np.arange(len(model.attractiveness))} | {name: getattr(model, name) for name in names}
    found = pairs.join(ibis.memtable(pa.table(fitted)), "pair")
    asked = tests.select(asked="query").distinct()
    found = found.left_join(asked, found.query == asked.asked)
    return found.select(
        *PAIR,
        # DuckDB's sums are wider than the int64 that ibis takes them for, and no cast to the same type is made.
        **{
            name: found[name].cast("float64").cast("int64")
            for name in ("impressions", "clicks", "satisfied", "disliked", "dwells")
        },
        **{name: found[name] for name in names},
        log_dwell=found.log_dwell.cast("float64") / _MILLION,
        tested=found.asked.notnull(),
        settings=ibis.literal(settings.model_dump_json()),
    )


def describe(
    counts: ibis.Table,
    model: Estimates,
    expected_clicks: NDArray[np.float64],
    judgments: ibis.Table,
    emerging: pa.Table,
) -> ibis.Table:
    """Return one row for each pair, numbered ``pair``.

    Columns: query, locale, doc_id, impressions, clicks, negatives, logged, judged (a judgment exists), and

    - engagement, 0 to 1: U, the mean engagement over clicks and negative feedbacks, the latter counting as 0, with
      one more 0 so that one long visit does not win;
    - clicks_over_expected: clicks less their standard error (the root of a Poisson count), over the clicks that the
      average document would have had at the same positions (``expected_clicks`` [pairs]; COEC of Zhang and Jones,
      "Comparing click logs and editorial labels for training query rewriting", WWW 2007 workshop); 0 where nobody
      clicked anything at those positions;
    - dislike_rate, 0 to 1: negative feedbacks less their standard error, over impressions;
    - attractiveness and its standard_error, and relevance (R_cm: the click model's relevance less its standard
      error), 0 to 1;
    - of the query: novelty (of ``emerging``, 0 where that lacks it), rise (see ``mining.novelty``), and segment, by
      popularity: ``head`` is the queries with the first third of all impressions, then ``torso``, then ``tail``.
    """
    pairs = counts.group_by("pair", *PAIR).aggregate(
        impressions=counts.impressions.sum(),
        clicks=counts.clicks.sum(),
        negatives=counts.negatives.sum(),
        engaged=counts.engaged.sum().fill_null(0),
        logged=counts.logged.max(),
        late=counts.late.sum(),
    )
    estimates = pa.table(
        {
            "pair": np.arange(len(model.attractiveness)),
            "expected_clicks": expected_clicks,
            "attractiveness": model.attractiveness,
            "standard_error": model.standard_error,
            "relevance": model.relevance - model.relevance_error,
        }
    )
    judged = judgments.select(*PAIR).distinct().mutate(judged=True)
    known = pairs.join(ibis.memtable(estimates), "pair").left_join(judged, PAIR, rname="{name}_of_judgment")
    known = known.join(_queries(pairs, emerging), ["query", "locale"], rname="{name}_of_query")
    return known.select(
        "pair",
        *PAIR,
        *("impressions", "clicks", "negatives", "logged", "attractiveness", "standard_error", "relevance"),
        *("novelty", "rise", "segment"),
        judged=known.judged.fill_null(False),
        engagement=known.engaged / _MILLION / (known.clicks + known.negatives + 1),
        # Where nobody clicked at the pair's positions, nobody clicked the pair: 0 clicks over 0 speak for nothing.
        clicks_over_expected=(known.expected_clicks > 0).ifelse(
            (known.clicks - known.clicks.sqrt()) / known.expected_clicks.nullif(0), 0.0
        ),
        dislike_rate=(known.negatives - known.negatives.sqrt()) / known.impressions,
    )


def _queries(pairs: ibis.Table, emerging: pa.Table) -> ibis.Table:
    """Return query, locale, novelty, rise and segment, one row for each query."""
    queries = pairs.group_by("query", "locale").aggregate(shown=pairs.impressions.sum(), late=pairs.late.sum())
    total = queries.aggregate(all_shown=queries.shown.sum(), all_late=queries.late.sum())
    clustered = ibis.memtable(emerging, schema=ibis.schema(dict(query="string", locale="string", novelty="float64")))
    queries = queries.cross_join(total).left_join(clustered, ["query", "locale"], rname="{name}_clustered")
    before = queries.shown.cumsum(order_by=[ibis.desc("shown"), "query", "locale"]) - queries.shown
    third = (before * len(SEGMENTS) / queries.all_shown).floor()
    return queries.select(
        "query",
        "locale",
        novelty=queries.novelty.fill_null(0.0),
        rise=novelty.rise(queries.late, queries.shown, queries.all_late / queries.all_shown),
        segment=ibis.cases(*((third == number, name) for number, name in enumerate(SEGMENTS))),
    )


def to_score(
    candidates: ibis.Table, thresholds: Thresholds, settings: MiningSettings
) -> tuple[ibis.Table, dict[str, int]]:
    """Return the candidates that the champion scores, at most ``max_scored``, and how many of each kind.

    First the suspects: pairs that users speak for or pass by, unless the log already shows that the champion thinks
    as they do. At most half of the places are theirs, strongest first, as long as others can fill the rest.
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
    by_rejection = ibis.row_number().over(order_by=[ibis.asc(rejection.ceiling(suspects)), "draw"])
    suspects = suspects.mutate(turn=ibis.least(by_engagement, by_relevance, by_rejection).cast("float64"))
    in_locale = ibis.row_number().over(group_by="locale", order_by="draw")
    of_locale = others.count().over(group_by="locale")
    others = others.mutate(turn=(in_locale + 1) / of_locale)
    parts = [
        part.order_by("turn", "draw").limit(scored).mutate(weight=ibis.literal(total / max(scored, 1)))
        for part, total, scored in ((suspects, all_suspects, scored_suspects), (others, all_others, scored_others))
    ]
    return ibis.union(*parts), {"suspects": scored_suspects, "sampled": scored_others}


def unseen(
    engine: BaseBackend,
    pairs: ibis.Table,
    asked: pa.Table,
    documents: ibis.Table,
    judgments: ibis.Table,
    model: Model,
    options: MiningSettings,
) -> pa.Table:
    """Return the hard negatives of queries among ``asked``, as rows like those: no impressions and no clicks.

    They have ``found_by``, their numbers follow those of ``pairs``, and ``weight`` is 0: they are no sample of what
    users see, and no quantile counts them.
    """
    if not options.hard_negatives or not asked.num_rows:
        return asked.slice(0, 0).append_column("found_by", pa.array([], pa.string()))
    queries = asked.select(["query", "locale"]).group_by(["query", "locale"]).aggregate([])
    queries = queries.sort_by([("locale", "ascending"), ("query", "ascending")])
    drawn = np.random.default_rng(options.seed).permutation(queries.num_rows)[: options.hard_negative_queries]
    queries = queries.take(pa.array(np.sort(drawn)))
    wanted = ibis.memtable(queries)
    known = ibis.union(*(table.semi_join(wanted, ["query", "locale"]).select(*PAIR) for table in (pairs, judgments)))
    catalogue = documents.semi_join(wanted, "locale").select("doc_id", "locale", "title", "body")
    drawn_first = (f"{options.seed}\x1f" + catalogue.doc_id).hexdigest("md5")
    catalogue = catalogue.order_by(drawn_first, "doc_id").limit(options.hard_negative_documents)
    found = hard_negative.unseen(
        queries, engine.to_pyarrow(known.distinct()), engine.to_pyarrow(catalogue), model, options
    )
    of_query = pairs.select("query", "locale", "novelty", "rise", "segment").distinct()
    rows = ibis.memtable(found).join(of_query, ["query", "locale"])
    rows = with_documents(rows, documents, ("title", "body"))
    nothing = {name: ibis.literal(0).cast(str(asked.schema.field(name).type)) for name in _COUNTED}
    rows = engine.to_pyarrow(rows.mutate(**nothing).order_by(*PAIR))
    after = engine.to_pyarrow(pairs.pair.max()).as_py() + 1
    numbers = pa.array(np.arange(after, after + rows.num_rows), asked.schema.field("pair").type)
    return rows.append_column("pair", numbers)


def _suspect(candidates: ibis.Table, thresholds: Thresholds) -> BooleanValue:
    low = candidates.logged.isnull() | (candidates.logged < thresholds.under_scored_below)
    high = candidates.logged.isnull() | (candidates.logged > thresholds.over_scored_above)
    welcomed = feedback.welcomed(candidates, thresholds) | click_model.attracts(candidates, thresholds)
    return (welcomed & low) | (rejection.rejected(candidates, thresholds) & high)
