"""UBI 1.x logs (User Behavior Insights: ``ubi_queries`` and ``ubi_events``) as impressions.

JSON lines or OpenSearch bulk files, plain or gzip. DuckDB reads the lines whatever the engine is; from typed
records on, all is ibis. Source: the UBI 1.x query and event schemas, https://o19s.github.io/ubi.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files as package_files
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from serm import contracts
from serm import engine as engines
from serm.settings import Settings
from serm.stream.lines import LINES, read_lines
from serm.stream.sessions import seconds, with_sessions

RECORDS = (
    *("delivery", "role", "event_time", "query_id", "session_id", "user_id", "locale", "query", "doc_id", "position"),
)
#: The role of a record: it names a query, shows a document, clicks on or dislikes it, or is any other event.
ROLES = ("query", "shown", "clicked", "disliked", "other")


def read(log: Path, files: Sequence[Path], records: Path, bad_lines: Path, settings: Settings) -> dict[str, int]:
    """Read the records of ``files`` in ``log`` to the Parquet file ``records``; what breaks the contract to a dataset.

    Returns how many records there are of each role, ``duplicate`` and ``quarantined``. ``bad_lines`` is a BAD_LINES
    dataset: every line that does not parse, and every record that lacks what its role needs. OpenSearch's action
    lines are no records and not counted; that every other line has one fate is asserted.
    """
    stream = settings.stream
    sql = (package_files("serm.stream") / "ubi.sql").read_text(encoding="utf-8")
    seen: Counter[str] = Counter()
    names = [str(file.relative_to(log)) if file != log else file.name for file in files]
    with engines.duckdb(settings.engine) as engine:
        engine.con.register("lines", pa.RecordBatchReader.from_batches(LINES, _counted(read_lines(files), seen)))
        parameters = stream.model_dump(mode="json", include={"shown", "clicked", "disliked", "locale"})
        engine.con.execute(sql, parameters)
        parsed = engine.table("parsed")
        fates = parsed.group_by("fate").aggregate(rows=parsed.count()).to_pyarrow().to_pylist()
        good = parsed.filter(parsed.fate.isin(ROLES)).order_by("delivery", "line")
        engine.to_parquet(good.select(RECORDS), records, compression="zstd")
        bad = parsed.filter(parsed.fate == "quarantined")
        named = ibis.memtable({"delivery": range(len(names)), "file": names}).join(bad, "delivery")
        lines = named.select(contracts.BAD_LINES.names)
        written = engines.write(engine, lines, bad_lines, contracts.BAD_LINES, ("file", "line"))
    counts = {row["fate"]: row["rows"] for row in fates}
    told = {fate: counts.get(fate, 0) for fate in (*ROLES, "duplicate", "quarantined")}
    used = pq.read_metadata(records).num_rows
    if (seen["lines"], used, written) != (sum(counts.values()), sum(told[role] for role in ROLES), told["quarantined"]):
        raise RuntimeError(f"lines lost: {dict(seen)} read, {counts}, {used} used, {written} bad")
    return told


def _counted(batches: Iterable[pa.RecordBatch], seen: Counter[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        seen["lines"] += batch.num_rows
        yield batch


def impressions(records: ibis.Table, session_gap_minutes: float) -> ibis.Table:
    """Return one impression for each document of a query in ``records``, with ``delivery``, the first that told of it.

    A document that was clicked or disliked was shown. ``dwell_seconds`` runs from a click to the session's next
    event on anything else; it is null where none follows within ``session_gap_minutes``.
    """
    events = with_sessions(records.filter(records.role != "query"), session_gap_minutes)
    events = events.mutate(thing=ibis.coalesce(events.query_id, "") + " " + ibis.coalesce(events.doc_id, ""))
    session = {"group_by": ["user_id", "session_id"], "order_by": ["event_time", "thing", "role"]}
    events = events.mutate(turns=events.thing != events.thing.lag().over(**session))
    turned_at = events.turns.ifelse(events.event_time, ibis.null(events.event_time.type()))
    events = events.mutate(left_at=turned_at.min().over(ibis.window(**session, rows=(1, None))))
    stay = seconds(events.left_at) - seconds(events.event_time)
    events = events.mutate(dwell=((events.role == "clicked") & (stay <= session_gap_minutes * 60)).ifelse(stay, None))
    on_documents = events.filter(events.role != "other")
    return on_documents.group_by("query_id", "doc_id").aggregate(
        **{name: on_documents[name].min() for name in _FIRST},
        clicked=(on_documents.role == "clicked").any(),
        dwell_seconds=on_documents.dwell.max(),
        negative_feedback=(on_documents.role == "disliked").any(),
        score=ibis.null("float64"),
        model_version=ibis.null("string"),
        variant=ibis.null("string"),
    )


_FIRST = ("event_time", "session_id", "user_id", "locale", "query", "position", "delivery")
