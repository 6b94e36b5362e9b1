"""Event-time windows: which rows are inside, and which came too late."""

from __future__ import annotations

import ibis

from serm.settings import CycleSettings
from serm.stream.sessions import seconds


def in_window(time: ibis.ir.TimestampValue, cycle: CycleSettings) -> ibis.ir.BooleanValue:
    """Whether ``time`` lies in the window, start <= time < end, or is null."""
    return time.isnull() | ((time >= ibis.literal(cycle.start)) & (time < ibis.literal(cycle.end)))


def with_lateness(rows: ibis.Table, allowed_hours: float | None) -> ibis.Table:
    """Return ``rows`` with ``late``: older than the watermark that stood when the row's delivery came.

    The watermark is the newest event_time of all earlier deliveries less ``allowed_hours``, as in micro-batches
    of a stream (Akidau et al., The Dataflow Model, VLDB 2015). Without a number no row is late.
    """
    if allowed_hours is None:
        return rows.mutate(late=False)
    newest = rows.group_by("delivery").aggregate(newest=rows.event_time.max())
    earlier = ibis.window(order_by="delivery", rows=(None, -1))
    marks = newest.select(mark_of="delivery", mark=seconds(newest.newest.max().over(earlier)) - allowed_hours * 3600)
    joined = rows.left_join(marks, rows.delivery == marks.mark_of)
    return joined.mutate(late=(seconds(joined.event_time) < joined.mark).fill_null(False)).drop("mark_of", "mark")
