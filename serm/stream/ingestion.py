"""The step that cuts one window out of the query log."""

from __future__ import annotations

from pathlib import Path

import ibis

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.settings import CycleSettings, Settings
from serm.step import Figures, step

ORDER = ("event_time", "session_id", "position")


@step
def ingest(log: Path, out: Path, settings: Settings) -> Figures:
    """Write the impressions of the cycle's window to ``out/impressions`` and count them in ``out/ingest.json``.

    ``log`` is an IMPRESSIONS dataset: a Parquet file or a directory of them, hive partitions included. A row
    without a time cannot be said to lie outside the window: it is kept, for validation to quarantine.

    Raises:
        UserError: no log, a column missing or of the wrong kind, or no impression in the window.
    """
    cycle = settings.cycle
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        impressions = contracts.scan(engine, log, contracts.IMPRESSIONS)
        inside = in_window(impressions, cycle)
        seen = impressions.aggregate(
            rows=impressions.count(),
            outside=impressions.count() - inside.sum().fill_null(0),
            first=impressions.event_time.min().cast("string"),
            last=impressions.event_time.max().cast("string"),
        )
        counts = seen.to_pyarrow().to_pylist()[0]
        if counts["rows"] == counts["outside"]:
            span = f"it spans {counts['first']} to {counts['last']}" if counts["rows"] else "it has no rows"
            raise UserError(
                f"{log}: no impressions from {cycle.start} to {cycle.end}; {span}: "
                "set cycle.start and cycle.end in params.yaml."
            )
        rows_kept = engines.write(
            engine, impressions.filter(inside), beside / "impressions", contracts.IMPRESSIONS, ORDER
        )
        if counts["rows"] != rows_kept + counts["outside"]:
            raise RuntimeError(f"rows lost: {counts['rows']} in, {rows_kept} kept, {counts['outside']} outside")
        kept = contracts.scan(engine, beside / "impressions", contracts.IMPRESSIONS)
        by_locale = kept.group_by("locale").aggregate(rows=kept.count()).to_pyarrow().to_pylist()
        queries = int(kept.select("locale", "query").distinct().count().to_pyarrow().as_py())
        rows: Figures = {
            "rows_in": counts["rows"],
            "rows_kept": rows_kept,
            "rows_outside_window": counts["outside"],
            "queries": queries,
        }
        locales = {row["locale"] or "": row["rows"] for row in by_locale}
        write_json(beside / "ingest.json", {**rows, "locales": locales})
    return {**rows, "locales": len(locales)}


def in_window(impressions: ibis.Table, cycle: CycleSettings) -> ibis.ir.BooleanColumn:
    """Whether an impression lies in the window, start <= event_time < end, or has no time at all."""
    time = impressions.event_time
    return time.isnull() | ((time >= ibis.literal(cycle.start)) & (time < ibis.literal(cycle.end)))
