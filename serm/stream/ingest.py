"""The step that cuts one window out of the query log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ibis
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.settings import Settings
from serm.step import Figures, step
from serm.stream import plausibility, privacy
from serm.stream.masking import KINDS
from serm.stream.source import Log, open_log
from serm.stream.windows import in_window, with_lateness

_LOG = logging.getLogger(__name__)
ORDER = ("event_time", "session_id", "position")


@step
def ingest(log: Path, out: Path, settings: Settings) -> Figures:
    """Write the impressions of the cycle's window to ``out/impressions`` and count all rows in ``out/ingest.json``.

    ``log`` is a file or a directory of them: Parquet as in IMPRESSIONS, hive partitions included, or UBI 1.x as
    JSON lines or OpenSearch bulk, plain or gzip; or it is a Delta or Iceberg table. Each row is kept, a duplicate
    of a row that is, late (then it is in ``out/late``), withheld because too few users typed its query, or outside
    the window; each line of a UBI log is a record that was used, a duplicate, or in ``out/bad_lines``: that none is
    lost is asserted. A row without a time cannot be said to lie outside the window: it is kept, for validation to
    quarantine. Personal data in queries is masked in all rows. What can hardly be right, such as a window without a
    click, is a warning in the log and in ``ingest.json``.

    Raises:
        UserError: no log, a column missing or of the wrong kind, no key for the users of a UBI log, no impression
            in the window, or more bad lines than ``stream.max_quarantined_share``: then ``out/bad_lines`` is there.
    """
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        with open_log(engine, log, beside / "bad_lines", settings) as opened:
            lines = opened.told.lines if opened.told else {}
            lines_in, bad = sum(lines.values()), lines.get("quarantined", 0)
            # Where all are bad too, whatever the limit. The directory is written all the same: it has bad_lines.
            too_bad = bad > settings.stream.max_quarantined_share * lines_in or bad == lines_in > 0
            summary: dict[str, Any] = {} if too_bad else _cut(engine, log, opened, beside, settings)
        if opened.told:
            summary["lines"] = {"rows_in": lines_in, **lines}
            summary["impressions_by_results"] = opened.told.returned
        write_json(beside / "ingest.json", summary)
    if too_bad:
        raise UserError(
            f"{log}: {bad:,} of {lines_in:,} lines ({bad / lines_in:.1%}) are unreadable or break the contract; "
            f"stream.max_quarantined_share = {settings.stream.max_quarantined_share:.1%}, and not all may; "
            f"{out / 'bad_lines'} has file, line and reason: mend the log or the limit."
        )
    for warning in summary["warnings"]:
        _LOG.warning("serm: %s: %s.", log, warning)
    figures: Figures = {name: count for name, count in summary.items() if isinstance(count, int)}
    figures |= {f"lines_{name}": count for name, count in summary.get("lines", {}).items()}
    figures |= {"rows_masked": sum(summary["masked"].values()), "locales": len(summary["locales"])}
    return {**figures, "warnings": len(summary["warnings"])}


def _cut(engine: BaseBackend, path: Path, log: Log, out: Path, settings: Settings) -> dict[str, Any]:
    """Write the window of ``log`` to ``out`` and return the counts, which add up to the rows that came in."""
    rows = log.rows
    counts = _count(rows, settings)
    if log.stored not in (None, counts["rows_in"]):
        raise RuntimeError(f"rows lost: {log.stored} in the files of {path}, {counts['rows_in']} read")
    if not counts["rows_in"] and log.told and sum(log.told.lines.values()):
        raise UserError(f"{path}: {log.told.without_impressions}")
    if counts["rows_in"] == counts["rows_outside_window"]:
        span = f"it spans {counts['first']} to {counts['last']}" if counts["rows_in"] else "it has no rows"
        raise UserError(
            f"{path}: no impressions from {settings.cycle.start} to {settings.cycle.end}; {span}: "
            "set cycle.start and cycle.end in params.yaml."
        )
    held = engines.hold(engine, "window_rows", windowed(engine, rows, settings))
    kept = held.filter(~held.late & ~held.withheld)
    rows_kept = engines.write(engine, kept, out / "impressions", contracts.IMPRESSIONS, ORDER)
    if settings.stream.allowed_lateness_hours is not None:
        engines.write(engine, held.filter(held.late & ~held.withheld), out / "late", contracts.IMPRESSIONS, ORDER)
    sums = {
        "rows_duplicate": (held.copies - 1).sum(),
        "rows_late": (held.late & ~held.withheld).sum(),
        "rows_withheld": held.withheld.sum(),
        **{kind: held[kind].sum() for kind in KINDS},
    }
    totals = {name: total.fill_null(0) for name, total in sums.items()}
    measures = plausibility.measures(held, ~held.late & ~held.withheld)
    told = _one_row(held.aggregate(**totals, **measures))
    measured = {name: told.pop(name) for name in measures}
    masked = {kind: told.pop(kind) for kind in KINDS}
    rows_of = {
        "rows_in": counts["rows_in"],
        "rows_kept": rows_kept,
        "rows_outside_window": counts["rows_outside_window"],
        **told,
    }
    if rows_of["rows_in"] != sum(rows_of.values()) - rows_of["rows_in"]:
        raise RuntimeError(f"rows lost: {rows_of}")
    by_locale = kept.group_by("locale").aggregate(rows=kept.count()).to_pyarrow().to_pylist()
    return {
        **rows_of,
        "queries": kept.select("locale", "query").distinct().count().to_pyarrow().as_py(),
        "locales": {row["locale"] or "": row["rows"] for row in by_locale},
        "masked": masked,
        "warnings": plausibility.warnings(measured, log.told),
    }


def _count(rows: ibis.Table, settings: Settings) -> dict[str, Any]:
    inside = in_window(rows.event_time, settings.cycle)
    return _one_row(
        rows.aggregate(
            rows_in=rows.count(),
            rows_outside_window=(~inside).sum().fill_null(0),
            first=rows.event_time.min().cast("string"),
            last=rows.event_time.max().cast("string"),
        )
    )


def _one_row(table: ibis.Table) -> dict[str, Any]:
    row: dict[str, Any] = table.to_pyarrow().to_pylist()[0]
    return row


def windowed(engine: BaseBackend, rows: ibis.Table, settings: Settings) -> ibis.Table:
    """Return the distinct rows inside the window: IMPRESSIONS with masked queries, and what is to know of each.

    ``copies`` is how often the row came, ``late`` whether all of them came late, ``withheld`` whether too few users
    typed its query in time; for each of ``masking.KINDS``, a column says whether the query had it.
    """
    timely = with_lateness(rows, settings.stream.allowed_lateness_hours)
    inside = timely.filter(in_window(timely.event_time, settings.cycle))
    names = contracts.IMPRESSIONS.names
    single, several = engines.split_repeated(
        engine, inside, ("query_id", "doc_id", "position"), page="query_id", place="position"
    )
    unique = ibis.union(
        single.select(*names, "late", copies=ibis.literal(1, "int64")),
        several.group_by(names).aggregate(late=several.late.all(), copies=several.count()),
    )
    masked = privacy.with_masked_queries(engine, unique, inside, settings.stream)
    return privacy.with_withheld(masked, settings.stream.min_query_users)
