"""Sessions by inactivity, for logs or records that name none."""

from __future__ import annotations

import ibis


def with_sessions(rows: ibis.Table, gap_minutes: float) -> ibis.Table:
    """Return ``rows`` with ``session_id`` filled in where it is null and ``user_id`` is not.

    A session is what a user does without a pause longer than ``gap_minutes``, over all rows given; its id is the
    user's id and the second in which it starts. ``rows`` has event_time, user_id and session_id.
    """
    by_user = {"group_by": "user_id", "order_by": "event_time"}
    rows = rows.mutate(before=rows.event_time.lag().over(**by_user))
    begins = rows.before.isnull() | (seconds(rows.event_time) - seconds(rows.before) > gap_minutes * 60)
    rows = rows.mutate(began=begins.ifelse(seconds(rows.event_time).floor().cast("int64"), None))
    # In the order of time, the latest beginning so far is the running maximum; a range, so that rows of one time
    # are told alike whichever of them the engine took for the first.
    start = rows.began.max().over(ibis.range_window(**by_user, following=0))
    session_id = ibis.coalesce(rows.session_id, rows.user_id + "-" + start.cast("string"))
    return rows.mutate(session_id=session_id).drop("before", "began")


def seconds(time: ibis.ir.TimestampValue) -> ibis.ir.FloatingValue:
    """Seconds since 1970 with milliseconds: engines differ in whether ``epoch_seconds`` has a fraction."""
    return time.epoch_seconds().cast("float64").floor() + time.millisecond() / 1000
