"""A look at a log before it is read: its time span, actions, ordinals and locales, and the settings that fit it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm import engine as engines
from serm.errors import UserError
from serm.lines import BREAKS_OFF, LINES, read_lines
from serm.settings import Settings
from serm.stream import plausibility, privacy
from serm.stream.masking import KINDS
from serm.stream.source import Log, open_log, require_json, text_files
from serm.stream.span import Span, of_rows

MAX_LINES = 1_000_000
"""So many lines of a text log are looked at, from the start of each of its files; a Parquet log is read whole."""
_SHOWN = re.compile(r"impression|\bshown\b|exposure|view_item_list|\bseen\b")
_CLICKED = re.compile(
    r"click|select_item|\btap\b|purchase|add_to_(cart|basket|bag)|\border\b|\bbuy\b|download|checkout"
)
_MANY_MASKED = 0.5
_MAX_ACTIONS, _NAME_LENGTH = 50, 40


@dataclass(frozen=True)
class Seen:
    """What a log looks like. ``told`` gives it as JSON can hold it."""

    form: str
    """``ubi`` or ``rows`` (Parquet, Delta, Iceberg)."""
    lines: int
    """Of text that were looked at."""
    is_sample: bool
    """Whether there are more."""
    first: str | None
    """The time of the first impression (ISO 8601, UTC), with the settings that are proposed; as the others below."""
    last: str | None
    impressions: int
    clicks: int
    queries: int
    """Distinct texts."""
    users: int
    locales: dict[str, int]
    """Locale -> impressions; the 20 most frequent."""
    actions: dict[str, dict[str, Any]]
    """Of UBI: action -> its ``events``, how many name a query (``on_queries``) and a document (``on_documents``), and
    their lowest ``ordinal`` (null: none has one). The 50 most frequent."""
    settings: dict[str, Any]
    """What of ``stream`` should differ from what was given: ``shown``, ``clicked``, ``first_ordinal``."""
    warnings: list[str]
    """What can hardly be right, one sentence each."""
    span: Span | None = None
    """When the log has impressions, with the settings that are proposed; None where only a sample was looked at, or no
    impression has a time."""

    def told(self) -> dict[str, Any]:
        """Return all but ``span`` as JSON can hold it."""
        return {name: value for name, value in asdict(self).items() if name != "span"}


def look(log: Path, settings: Settings) -> Seen:
    """Look at ``log`` as ``ingest`` would read it, without the window: nothing is written.

    Raises:
        UserError: no log, or one that ``ingest`` cannot read either.
    """
    if not log.exists():
        raise UserError(f"{log}: no such file or directory; give the log's path.")
    texts = text_files(log)
    require_json(log, texts)
    with engines.duckdb(settings.engine) as engine, tempfile.TemporaryDirectory(prefix="serm-") as scratch:
        if not texts:
            with open_log(engine, log, Path(scratch) / "bad", settings) as opened:
                return _seen(engine, opened, "rows", settings, {})
        lines, is_sample, broken = _sample(texts, max(1, MAX_LINES // len(texts)))
        actions = _actions(engine, lines)
        proposed = _proposed(actions, settings)
        stream = settings.stream.model_copy(update=proposed)
        sample = Path(scratch) / "sample.ndjson"
        sample.write_bytes(b"".join(f"{line}\n".encode() for line in lines.to_pylist()))
        with open_log(engine, sample, Path(scratch) / "bad", settings.model_copy(update={"stream": stream})) as opened:
            seen = _seen(engine, opened, "ubi", settings, actions)
        whole = None if is_sample else seen.span
        told = [*plausibility.broken_off(broken), *seen.warnings]
        return replace(seen, lines=len(lines), is_sample=is_sample, settings=proposed, span=whole, warnings=told)


def _sample(files: Sequence[Path], rows: int) -> tuple[pa.ChunkedArray, bool, list[str]]:
    """Return the readable ones of the first lines of each file, whether there are more, and which files break off."""
    texts, more, broken = [], False, list[str]()
    for file in files:
        left = rows
        for batch in read_lines([file]):
            if not left:
                more = True
                break
            if pc.any(pc.match_substring(batch["reason"], BREAKS_OFF)).as_py():
                broken.append(file.name)
            texts.append(batch["text"].slice(0, left).drop_null())
            more |= batch.num_rows > left
            left -= min(left, batch.num_rows)
    return pa.chunked_array(texts, LINES.field("text").type), more, broken


def _actions(engine: BaseBackend, lines: pa.ChunkedArray) -> dict[str, dict[str, Any]]:
    engine.con.register("looked_at", pa.table({"text": lines}))
    rows = engine.con.sql(_ACTIONS).to_arrow_table().to_pylist()
    engine.con.unregister("looked_at")
    return {row.pop("action"): row for row in rows}


_ACTIONS = f"""
WITH events AS (
    SELECT json_extract_string(text, ['$.action_name', '$.query_id', '$.event_attributes.object.object_id',
                                      '$.event_attributes.position.ordinal',
                                      '$.event_attributes.position.ordinal.index']) AS field
    FROM looked_at WHERE json_valid(text) AND json_type(text) = 'OBJECT'
)
SELECT field[1][:{_NAME_LENGTH}] AS action, count(*) AS events, count(nullif(field[2], '')) AS on_queries,
    count(nullif(field[3], '')) AS on_documents,
    min(coalesce(try_cast(field[4] AS DOUBLE), try_cast(field[5] AS DOUBLE)))::BIGINT AS ordinal
FROM events WHERE field[1] <> '' GROUP BY ALL ORDER BY events DESC, action LIMIT {_MAX_ACTIONS}
"""


def _proposed(actions: dict[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Return what of ``stream`` the actions tell otherwise than ``settings``."""
    stream, proposed = settings.stream, {}
    known = {*stream.shown, *stream.clicked, *stream.disliked}
    # A place tells a document from whatever else can be clicked on.
    on_documents = {
        name: row
        for name, row in actions.items()
        if min(row["on_documents"], row["on_queries"]) > row["events"] / 2
        and (name in known or row["ordinal"] is not None)
    }
    shown = [*stream.shown, *(name for name in on_documents if name not in known and _SHOWN.search(name.lower()))]
    clicked = [
        *stream.clicked,
        *(name for name in on_documents if name not in {*known, *shown} and _is_click(name.lower())),
    ]
    clicks = sum(on_documents[name]["events"] for name in clicked if name in on_documents and name != "view")
    views = on_documents.get("view", {}).get("events", 0)
    if "view" in clicked and not set(shown) & on_documents.keys() and views > 2 * clicks > 0:
        clicked.remove("view")  # it comes more often than clicks do: a document came into sight
        shown.append("view")
    for name, value in (("shown", shown), ("clicked", clicked)):
        if value != list(getattr(stream, name)):
            proposed[name] = tuple(value)
    lowest = [row["ordinal"] for name, row in on_documents.items() if name in {*shown, *clicked}]
    ordinals = [ordinal for ordinal in lowest if ordinal is not None]
    if ordinals and min(ordinals) in (0, 1) and min(ordinals) != stream.first_ordinal:
        proposed["first_ordinal"] = min(ordinals)
    return proposed


def _is_click(action: str) -> bool:
    return not action.startswith("global") and bool(_CLICKED.search(action))  # global_click: anywhere on the page


def _seen(engine: BaseBackend, opened: Log, form: str, settings: Settings, actions: dict[str, dict[str, Any]]) -> Seen:
    rows = opened.rows
    always = rows.doc_id.notnull() | rows.doc_id.isnull()
    measured: dict[str, Any] = (
        rows.aggregate(
            **plausibility.measures(rows, always),
            rows=rows.count(),
            queries=rows["query"].nunique(),
            users=rows.user_id.nunique(),
            first=rows.event_time.min(),
            last=rows.event_time.max(),
        )
        .to_pyarrow()
        .to_pylist()[0]
    )
    by_locale = rows.group_by("locale").aggregate(rows=rows.count()).to_pyarrow().to_pylist()
    frequent = sorted(by_locale, key=lambda row: (-row["rows"], row["locale"] or ""))[:20]
    counts = {name: measured[name] or 0 for name in ("rows", "clicked", "queries", "users")}
    first, last = (time and time.isoformat() for time in (measured["first"], measured["last"]))
    warnings = [
        *(plausibility.warnings(measured, opened.told) if counts["rows"] else _without_impressions(opened)),
        *_of_masking(engine, opened, settings),
    ]
    return Seen(
        form,
        lines=0,
        is_sample=False,
        first=first,
        last=last,
        impressions=counts["rows"],
        clicks=counts["clicked"],
        queries=counts["queries"],
        users=counts["users"],
        locales={row["locale"] or "": row["rows"] for row in frequent},
        actions=actions,
        settings={},
        warnings=warnings,
        span=of_rows(rows),
    )


def _without_impressions(opened: Log) -> Iterator[str]:
    yield opened.told.without_impressions.rstrip(".") if opened.told else "it has no rows"


def _of_masking(engine: BaseBackend, opened: Log, settings: Settings) -> Iterator[str]:
    queries = opened.rows.select("query").distinct().limit(10_000)
    masked = privacy.with_masked_queries(engine, queries, queries, settings.stream).to_pyarrow()
    found = [pc.fill_null(masked[kind], False) for kind in KINDS]
    hits = sum(any(row) for row in zip(*(column.to_pylist() for column in found), strict=True))
    bare = pc.sum(pc.match_substring_regex(pc.fill_null(masked["query"], ""), r"^(<[a-z]+>\s*)+$")).as_py() or 0
    if masked.num_rows and max(hits, bare) > _MANY_MASKED * masked.num_rows:
        yield (
            f"of {masked.num_rows:,} queries {max(hits, bare):,} are masked as personal data: if they are your "
            "catalogue's own numbers, leave the kind out of stream.masked"
        )
