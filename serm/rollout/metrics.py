"""What users did, by user: ibis expressions over the joined log, the same on DuckDB and on Spark.

Each metric is a ratio of two sums over users, so that its variance is that between users (the delta method), who are
what was drawn at random; searches of one user are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import ibis

SATISFIED_SECONDS = 30
LONGEST_SECONDS = 300.0
"""A longer wait for a first click counts as one of these seconds."""
_RETENTION = (1, 7, 14)


@dataclass(frozen=True)
class Ratio:
    """A metric: the sum of one column of ``by_user`` over the sum of another."""

    numerator: str
    denominator: str
    better: int
    """1 where more is better, -1 where less is."""


METRICS: dict[str, Ratio] = {
    "click_through": Ratio("with_click", "searches", 1),
    "satisfied_clicks": Ratio("with_satisfied", "searches", 1),
    "abandonment": Ratio("abandoned", "searches", -1),
    "change_query": Ratio("changed", "searches", -1),
    "negative_feedback": Ratio("with_negative", "searches", -1),
    "first_click": Ratio("first_click", "searches", 1),
    "time_to_click": Ratio("click_seconds", "timed", -1),
    "sessions": Ratio("sessions", "users", 1),
    **{f"retention_{days}": Ratio(f"returned_{days}", f"observed_{days}", 1) for days in _RETENTION},
}
"""Shares of searches: with a click; with one of 30 seconds or more; without any; followed by another query of the
session; with negative feedback. ``first_click``: the mean of 1 / position of a search's first click, 0 without one.
``time_to_click``: seconds to a search's first click, at most ``LONGEST_SECONDS``, of searches of which the log says it.
``sessions``: by user. ``retention_N``: the share of users, of those first seen N days and more before the end, who
searched N days after that or later."""

_OF_SEARCHES = (
    "searches",
    "with_click",
    "with_satisfied",
    "abandoned",
    "changed",
    "with_negative",
    "first_click",
    "click_seconds",
    "timed",
)


def by_search(log: ibis.Table, change_query_seconds: float) -> ibis.Table:
    """Return a row for each search of a log (IMPRESSIONS): who, when, in which group, and what came of it.

    ``abandoned`` is a search without a click that no other query of its session follows within
    ``change_query_seconds``, so that a changed query is not counted twice.
    """
    satisfied = log.clicked & (log.dwell_seconds >= SATISFIED_SECONDS)
    first = (log.clicked.ifelse(log.position, None)).min()
    searches = log.group_by("query_id").agg(
        user_id=log.user_id.min(),
        session_id=log.session_id.min(),
        locale=log.locale.min(),
        query=log["query"].min(),
        variant=log.variant.min(),
        event_time=log.event_time.min(),
        with_click=log.clicked.cast("int64").max(),
        with_satisfied=satisfied.fill_null(False).cast("int64").max(),
        with_negative=log.negative_feedback.cast("int64").max(),
        first_click=(1.0 / first.cast("float64")).fill_null(0.0),
        waited=log.click_seconds.min(),
    )
    searches = searches.mutate(
        # The least of null and a number is the number.
        click_seconds=searches.waited.notnull().ifelse(ibis.least(searches.waited, LONGEST_SECONDS), 0.0),
        timed=searches.waited.notnull().cast("int64"),
    ).drop("waited")
    window = ibis.window(group_by="session_id", order_by=["event_time", "query_id"])
    searches = searches.mutate(
        next_query=searches["query"].lead().over(window), next_time=searches.event_time.lead().over(window)
    )
    pause = searches.next_time.truncate("s").epoch_seconds() - searches.event_time.truncate("s").epoch_seconds()
    changed = ((searches.next_query != searches["query"]) & (pause <= change_query_seconds)).fill_null(False)
    return searches.mutate(
        changed=changed.cast("int64"), abandoned=((searches.with_click == 0) & ~changed).cast("int64")
    )


def with_traffic(searches: ibis.Table, start: datetime, before_days: float) -> ibis.Table:
    """Return the ``searches`` with ``traffic``, what the ``before_days`` days before ``start`` say of their query.

    ``head`` are the queries with the first third of those days' searches, then ``torso``, then ``tail``; ``new`` is
    what nobody searched for then.
    """
    query = ["locale", "query"]
    counts = _early(searches, start, before_days).group_by(query).agg(times=ibis._.count())
    up_to = ibis.window(order_by=[ibis.desc("times"), *query], preceding=None, following=0)
    ranked = counts.cross_join(counts.aggregate(all_times=counts.times.sum()))
    ranked = ranked.mutate(share=(ibis._.times.sum().over(up_to) - ibis._.times) / ibis._.all_times)
    joined = searches.left_join(ranked, query, rname="{name}_before")
    share = joined.share
    traffic = ibis.cases((share.isnull(), "new"), (share < 1 / 3, "head"), (share < 2 / 3, "torso"), else_="tail")
    return joined.mutate(traffic=traffic).select(*searches.columns, "traffic")


def _early(searches: ibis.Table, start: datetime, before_days: float) -> ibis.Table:
    return searches.filter(
        (searches.event_time >= ibis.literal(start - timedelta(days=before_days)))
        & (searches.event_time < ibis.literal(start))
    )


def by_user(
    searches: ibis.Table,
    stages: Sequence[datetime],
    until: datetime,
    winsorise: float,
    before_days: float,
    part: Sequence[str] = (),
) -> ibis.Table:
    """Return a row for each user of challenger or control who searched from ``stages[0]`` to before ``until``.

    Columns: ``user_id``; ``challenger`` (bool); ``crossed``, seen in both groups; ``locale``, the user's first
    by name; ``stage``, the step of the ramp in force when the user was first seen, an index of ``stages``; the columns
    that METRICS names; and the same of searches with ``before_``, of the ``before_days`` days before the first stage. A
    user with more searches than the quantile ``winsorise`` weighs as much as one at it: numerators and denominators are
    scaled alike, the user's rate stays. One with more sessions than that quantile has as many as one at it.

    Args:
        searches: of ``by_search``; ``variant`` is challenger, control or champion.
        stages: when each step began, rising.
        until: the end, UTC.
        winsorise: a quantile, above 0.5 to 1.
        before_days: of the covariates; 0: all of them are 0.
        part: columns of ``searches``, such as traffic: a user has a row for each value of theirs, and those columns.
            ``crossed`` and ``stage`` are those of all of the user's searches.
    """
    start = stages[0]
    during = searches.filter(
        (searches.event_time >= ibis.literal(start)) & (searches.event_time < ibis.literal(until)),
        searches.variant.isin(["challenger", "control"]),
    )
    day = 86_400
    seconds = during.event_time.truncate("s").epoch_seconds().cast("int64")
    users = during.group_by(["user_id", *part]).agg(
        challenger=(during.variant == "challenger").max(),
        crossed=during.variant.nunique() > 1,
        locale=during.locale.min(),
        first_time=during.event_time.min(),
        first=seconds.min(),
        last=seconds.max(),
        sessions=during.session_id.nunique().cast("float64"),
        searches=during.count().cast("float64"),
        **{name: during[name].sum().cast("float64") for name in _OF_SEARCHES[1:]},
    )
    if part:  # who crossed, and when they came, is the user's and not the part's
        whole = during.group_by("user_id").agg(crossed=during.variant.nunique() > 1, first_time=during.event_time.min())
        users = users.drop("crossed", "first_time").join(whole, "user_id")
    stage = ibis.literal(0)
    for began in stages[1:]:
        stage = stage + (users.first_time >= ibis.literal(began)).cast("int64")
    end = int(until.timestamp())
    observed = {days: users.first <= end - (days + 1) * day for days in _RETENTION}
    users = users.mutate(
        stage=stage.cast("int64"),
        users=ibis.literal(1.0),
        **{f"observed_{n}": seen.cast("float64") for n, seen in observed.items()},
        **{
            f"returned_{n}": (seen & (users["last"] >= users["first"] + n * day)).cast("float64")
            for n, seen in observed.items()
        },
    ).drop("first_time", "first", "last")
    if winsorise < 1:
        cap = users.aggregate(cap=users.searches.quantile(winsorise), most=users.sessions.quantile(winsorise))
        users = users.cross_join(cap)
        weight = ibis.least(ibis.literal(1.0), users.cap.cast("float64") / users.searches)
        users = users.mutate(
            sessions=ibis.least(users.sessions, users.most.cast("float64")),
            **{name: users[name] * weight for name in _OF_SEARCHES},
        ).drop("cap", "most")
    return _with_habits(users, searches, start, before_days)


def _with_habits(users: ibis.Table, searches: ibis.Table, start: datetime, before_days: float) -> ibis.Table:
    early = _early(searches, start, before_days)
    habits = early.group_by("user_id").agg(
        before_searches=early.count().cast("float64"),
        **{f"before_{name}": early[name].sum().cast("float64") for name in _OF_SEARCHES[1:]},
    )
    joined = users.left_join(habits, "user_id").drop("user_id_right")
    return joined.mutate(**{f"before_{name}": joined[f"before_{name}"].fill_null(0.0) for name in _OF_SEARCHES})


def covariate(metric: str) -> tuple[str, str] | None:
    """Return the columns whose ratio before the start explains a metric's, or None: of sessions and of retention."""
    ratio = METRICS[metric]
    if ratio.denominator not in _OF_SEARCHES:
        return None
    return f"before_{ratio.numerator}", f"before_{ratio.denominator}"


def moments(users: ibis.Table, metrics: Sequence[str], segment: str = "locale") -> ibis.Table:
    """Return by stage, group (``challenger``), ``crossed`` and segment the count of users, and sums for covariances.

    Columns: ``n``, ``A`` for the sum of column A, ``A*B`` (A <= B) for that of the products, of the pairs that the
    metrics need.
    """
    wanted: dict[tuple[str, str], None] = {}
    single: dict[str, None] = {}
    for metric in metrics:
        names = sorted({METRICS[metric].numerator, METRICS[metric].denominator, *(covariate(metric) or ())})
        single |= dict.fromkeys(names)
        wanted |= dict.fromkeys((a, b) for a in names for b in names if a <= b)
    return users.group_by(["stage", "challenger", "crossed", segment]).agg(
        n=users.count(),
        **{name: users[name].sum() for name in single},
        **{f"{a}*{b}": (users[a] * users[b]).sum() for a, b in wanted},
    )
