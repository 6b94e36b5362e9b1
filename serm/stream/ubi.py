"""UBI logs (User Behavior Insights 1.0 to 1.3: ``ubi_queries`` and ``ubi_events``) as impressions.

JSON lines or OpenSearch bulk files, plain or gzip. DuckDB reads the lines whatever the engine is; from typed
records on, all is ibis. Source: the query and event schemas, https://github.com/o19s/ubi/tree/main/schema, and what
OpenSearch's plugin writes, https://github.com/opensearch-project/user-behavior-insights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.lines import BREAKS_OFF, LINES, read_lines
from serm.settings import Settings
from serm.stream.sessions import seconds, with_sessions

#: The role of a record: it names a query, shows a document, clicks on or dislikes it, or is any other event.
ROLES = ("query", "shown", "clicked", "disliked", "other")
_SETTINGS = {"shown", "clicked", "disliked", "locale", "first_ordinal", "max_position"}
_NAMES, _NAME_LENGTH = 5, 40


@dataclass(frozen=True)
class Told:
    """What became of a log's lines, and what else they say of it."""

    lines: dict[str, int]
    """How many there are of each role, ``duplicate`` and ``quarantined``."""
    returned: int
    """Impressions that no event tells of, only the list of what a query returned."""
    unowned: int
    """Queries with such a list whose client no record names: nobody is known to have seen it."""
    other_actions: tuple[str, ...]
    """The names of the other events, the most frequent first, as JSON: five at most, each cut to 40 characters."""

    broken: tuple[str, ...] = ()
    """The packed files that break off, whose other lines nobody knows."""
    hashed: bool = False
    """Whether it names sessions by their keyed hashes, as SERM's transformer does."""

    @property
    def without_impressions(self) -> str:
        """What to say of a log that has lines, but no impression."""
        found = ", ".join(f"{count:,} {fate}" for fate, count in self.lines.items() if count)
        others = f" (its other actions: {', '.join(self.other_actions)})" if self.other_actions else ""
        return f"no line shows a document ({found}); name its actions in stream.shown and stream.clicked{others}."


def read_records(log: Path, files: Sequence[Path], records: Path, bad_lines: Path, settings: Settings) -> Told:
    """Read the records of ``files`` in ``log`` to the Parquet file ``records``; what breaks the contract to a dataset.

    ``bad_lines`` is a BAD_LINES dataset: every line that does not parse, and every record that lacks what its role
    needs. OpenSearch's action lines are no records and not counted; that every other line has one fate is asserted.
    """
    sql = (package_files("serm.stream") / "ubi.sql").read_text(encoding="utf-8")
    seen: Counter[str] = Counter()
    names = [str(file.relative_to(log)) if file != log else file.name for file in files]
    with engines.duckdb(settings.engine) as engine:
        engine.con.register("lines", pa.RecordBatchReader.from_batches(LINES, _counted(read_lines(files), seen)))
        values = settings.stream.model_dump(mode="json", include=_SETTINGS)
        for statement in engine.con.extract_statements(sql):
            engine.con.execute(statement, {name: values[name] for name in statement.named_parameters})
        told, actions = _told(engine, names)
        made = _count(engine, "on_documents") + told.returned + told.lines["other"]
        engine.to_parquet(engine.table("records"), records, compression="zstd")
        parsed = engine.table("parsed")
        bad = parsed.filter(parsed.fate == "quarantined")
        lines = ibis.memtable({"delivery": range(len(names)), "file": names}).join(bad, "delivery")
        written = engines.write(
            engine, lines.select(contracts.BAD_LINES.names), bad_lines, contracts.BAD_LINES, ("file", "line")
        )
    used, fates = pq.read_metadata(records).num_rows, sum(told.lines.values()) + actions
    if (seen["lines"], used, written) != (fates, made, told.lines["quarantined"]):
        raise RuntimeError(f"lines lost: {dict(seen)} read, {told}, {used} of {made} records, {written} bad")
    return told


def _told(engine: BaseBackend, files: Sequence[str]) -> tuple[Told, int]:
    """Return what the tables of ubi.sql say, and how many action lines there were."""
    parsed = engine.table("parsed")
    fates = parsed.group_by("fate").aggregate(rows=parsed.count()).to_pyarrow().to_pylist()
    counts = Counter({row["fate"]: row["rows"] for row in fates})
    others = parsed.filter((parsed.fate == "other") & parsed.action.notnull())
    names = others.group_by(name=others.action[:_NAME_LENGTH]).aggregate(rows=others.count())
    frequent = names.order_by(ibis.desc("rows"), "name").limit(_NAMES).to_pyarrow()["name"].to_pylist()
    owners = engine.table("owners")
    broken = parsed.filter(parsed.reason.contains(BREAKS_OFF)).select("delivery")
    told = Told(
        lines={fate: counts[fate] for fate in (*ROLES, "duplicate", "quarantined")},
        returned=_count(engine, "shown_by_return"),
        unowned=int(owners.filter(owners.owner.isnull()).count().to_pyarrow().as_py()),
        other_actions=tuple(map(json.dumps, frequent)),
        broken=tuple(files[number] for number in sorted(set(broken.to_pyarrow()["delivery"].to_pylist()))),
        hashed=bool(parsed.session_id.startswith("\0").any().to_pyarrow().as_py()),
    )
    return told, counts["action"]


def _count(engine: BaseBackend, table: str) -> int:
    return int(engine.table(table).count().to_pyarrow().as_py())


def _counted(batches: Iterable[pa.RecordBatch], seen: Counter[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        seen["lines"] += batch.num_rows
        yield batch


def impressions(records: ibis.Table, session_gap_minutes: float) -> ibis.Table:
    """Return one impression for each document of a query in ``records``, with ``delivery``, the first that told of it.

    A document that was clicked or disliked was shown. What shows it tells its position, or where nothing does, the
    others. ``dwell_seconds`` runs from a click to the session's next
    event on anything else; it is null where none follows within ``session_gap_minutes``. ``click_seconds`` runs from
    the first that is told of the query's documents to a document's first click; null where nothing was told before.
    """
    events = with_sessions(records, session_gap_minutes)
    events = events.mutate(thing=ibis.coalesce(events.query_id, "") + " " + ibis.coalesce(events.doc_id, ""))
    session = {"group_by": ["user_id", "session_id"], "order_by": ["event_time", "thing", "role"]}
    events = events.mutate(turns=events.thing != events.thing.lag().over(**session))
    turned_at = events.turns.ifelse(events.event_time, ibis.null(events.event_time.type()))
    events = events.mutate(left_at=turned_at.min().over(ibis.window(**session, rows=(1, None))))
    stay = seconds(events.left_at) - seconds(events.event_time)
    events = events.mutate(dwell=((events.role == "clicked") & (stay <= session_gap_minutes * 60)).ifelse(stay, None))
    on_documents = events.filter(events.role != "other")
    where_shown = on_documents.position.min(where=on_documents.role == "shown")
    found = on_documents.group_by("query_id", "doc_id").aggregate(
        **{name: on_documents[name].min() for name in _FIRST},
        position=ibis.coalesce(where_shown, on_documents.position.min()),
        clicked=(on_documents.role == "clicked").any(),
        dwell_seconds=on_documents.dwell.max(),
        clicked_at=on_documents.event_time.min(where=on_documents.role == "clicked"),
        negative_feedback=(on_documents.role == "disliked").any(),
        **{name: on_documents[name].max() for name in ("score", "model_version", "variant")},
    )
    waited = seconds(found.clicked_at) - seconds(found.event_time.min().over(group_by="query_id"))
    return found.mutate(click_seconds=(waited > 0).ifelse(waited, None)).drop("clicked_at")


_FIRST = ("event_time", "session_id", "user_id", "locale", "query", "delivery")
