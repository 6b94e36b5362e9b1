"""What a log says of interleaved pages: whose documents their users clicked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serm import contracts, engine
from serm.errors import UserError
from serm.rollout.interleaving import interval_of
from serm.rollout.sequence import Interval
from serm.settings import EngineSettings


@dataclass(frozen=True)
class Preference:
    """What the interleaved pages of a log say."""

    users: int
    pages: int
    for_challenger: int
    """Pages whose clicks prefer it."""
    for_champion: int
    interval: Interval
    """Of the users' preference for the challenger, -1 to 1, at all looks together."""


def read(log: Path, on: EngineSettings, alpha: float, planned_users: int) -> Preference:
    """Return the preference of a log's interleaved pages, as ``interleaving.credit`` and ``preference`` have it.

    Args:
        log: a joined log (IMPRESSIONS) of one experiment, such as what ingest makes of the transformer's with
            ``interleave``: its variant is ``interleaved:`` and whose document a row is.
        on: the engine that reads it.
        alpha: as in ``preference``.
        planned_users: likewise.

    Raises:
        UserError: the log cannot be read, or no page in it is interleaved.
    """
    with engine.connect(on) as connection:
        rows = contracts.scan(connection, log, contracts.IMPRESSIONS)
        rows = rows.filter(rows.variant.startswith("interleaved:"))
        side = {
            of: (rows.clicked & (rows.variant == f"interleaved:{of}")).cast("int64")
            for of in ("champion", "challenger")
        }
        pages = rows.group_by("query_id").agg(
            user_id=rows.user_id.min(), balance=side["challenger"].sum() - side["champion"].sum()
        )
        users = pages.group_by("user_id").agg(
            credit=pages.balance.sign().cast("float64").mean(),
            pages=pages.count(),
            won=(pages.balance > 0).cast("int64").sum(),
            lost=(pages.balance < 0).cast("int64").sum(),
        )
        found = users.aggregate(
            users=users.count(),
            mean=users.credit.mean(),
            variance=users.credit.var(how="sample"),
            **{name: users[name].sum() for name in ("pages", "won", "lost")},
        )
        (told,) = found.to_pyarrow().to_pylist()
    if not told["users"]:
        raise UserError(f"{log}: no row's variant begins with interleaved:; set interleave: true in the experiment.")
    interval = interval_of(told["users"], told["mean"], told["variance"] or 0.0, alpha, planned_users)
    return Preference(told["users"], told["pages"], told["won"], told["lost"], interval)
