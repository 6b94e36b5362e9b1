"""What a window looks like whose log was not read as it was meant: one sentence each, with the likely setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ibis

from serm.stream.ubi import Told


def measures(rows: ibis.Table, kept: ibis.ir.BooleanValue) -> dict[str, ibis.ir.Scalar]:
    """Return what to aggregate of the IMPRESSIONS ``rows``, where they are ``kept``, for ``warnings`` to look at."""
    return {
        "shown": kept.sum(),
        "clicked": (kept & rows.clicked).sum(),
        "on_first": (kept & (rows.position == 1)).sum(),
        "on_second": (kept & (rows.position == 2)).sum(),
        "first_user": rows.user_id.min(where=kept),
        "last_user": rows.user_id.max(where=kept),
    }


def warnings(measured: dict[str, Any], told: Told | None) -> list[str]:
    """Say what can hardly be right; ``measured`` has the values of ``measures``, ``told`` what UBI lines say."""
    shown, clicked, first, second = (measured[name] or 0 for name in ("shown", "clicked", "on_first", "on_second"))
    broken = broken_off(told.broken) if told else []
    return [*broken, *_of_rows(shown, clicked, first, second, told), *_of_users(shown, measured, told)]


def broken_off(files: Sequence[str]) -> list[str]:
    """Say which packed files of a log are not whole."""
    return [f"{file} breaks off, and nobody knows what it lacks: bring it whole" for file in files]


def _of_rows(shown: int, clicked: int, first: int, second: int, told: Told | None) -> Iterator[str]:
    if not shown:
        yield "no impression of the window is left"
        return
    if not clicked:
        others = f" (its other actions: {', '.join(told.other_actions)})" if told and told.other_actions else ""
        yield "nothing was clicked" + (f": name the log's clicks in stream.clicked{others}" if told else "")
    if clicked == shown:
        yield f"all {shown:,} impressions were clicked, so that nothing tells what users passed by" + (
            ": the log lacks what was shown, stream.shown does not name it, or stream.clicked does" if told else ""
        )
    if not first or first < second / 2:
        yield f"{first:,} impressions stand at position 1, {second:,} at position 2" + (
            ": if the log's ordinals begin at 1, set stream.first_ordinal to 1" if told else ": positions count from 1"
        )


def _of_users(shown: int, measured: dict[str, Any], told: Told | None) -> Iterator[str]:
    if shown and measured["first_user"] == measured["last_user"]:
        yield "all impressions are one user's"
    if told and told.unowned:
        yield (
            f"{told.unowned:,} queries tell what they returned, but no record of theirs names a client_id, so that "
            "nobody is known to have been shown it"
        )
