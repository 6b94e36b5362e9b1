"""The emoji world as the files that a company has: a query log, a catalogue, judgments. The hidden truth is in none.

Before SERM the engine ranks by its encoder's cosine alone: there is no champion that the first log could be of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.atomic import replace_directory, write_text
from serm.step import Figures
from serm.worlds import pools, traffic
from serm.worlds.emoji import EmojiWorld
from serm.worlds.traffic import FirstStage

PRODUCTS, JUDGMENTS, LOG, KNOWLEDGE, TESTS = "products.jsonl", "judgments.jsonl", "log", "knowledge", "tests"
LAST = 1
"""The window that a company's files end with: with the one before it is enough for a first cycle."""


class Cosine:
    """The engine before SERM: what it scores by, as expected grades so that exploration means the same."""

    version = "cosine"

    def __init__(self, stage: FirstStage) -> None:
        self._stage = stage

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Any:
        """Return ``expected`` [n]: cosines, moved and scaled to the middle of the grades."""
        cosines = self._stage.cosines(queries, documents)
        return SimpleNamespace(expected=np.clip(1.5 + 0.75 * (cosines - cosines.mean()) / (cosines.std() + 1e-6), 0, 3))


def write_company(folder: Path, world: EmojiWorld, stage: FirstStage) -> Figures:
    """Write what a company has at the end of window ``LAST``, for ``serm init``: a UBI log, one list of judgments.

    ``folder`` is replaced whole, or not at all.
    """
    figures: Figures = {}
    with replace_directory(folder) as beside:
        write_catalogue(world, LAST, beside / PRODUCTS)
        frozen = pools.frozen(world, stage)
        judged = [pools.seed(world, stage), *frozen.values()]
        write_judgments(_once(judged), beside / JUDGMENTS)
        contracts.write(world.knowledge(), beside / KNOWLEDGE, contracts.KNOWLEDGE)
        (beside / LOG).mkdir()
        for window in range(LAST + 1):
            log, found = traffic.simulated(world.documents(window), window, world, cast(Any, Cosine(stage)), stage)
            write_ubi(log, beside / LOG, f"window-{window}")
            figures |= {f"impressions of window {window}": found["impressions"]}
    return figures


def write_founding(folder: Path, world: EmojiWorld, stage: FirstStage, params: str) -> Figures:
    """Write what the demo's workspace is founded on: the first window's log (Parquet), and test sets of their own.

    ``params`` is the text of its params.yaml, whose first cycle's window lies after the log.
    """
    with replace_directory(folder) as beside:
        write_catalogue(world, 0, beside / PRODUCTS)
        write_judgments(pools.seed(world, stage), beside / JUDGMENTS)
        for documents, table in pools.frozen(world, stage).items():
            (beside / TESTS / "frozen").mkdir(parents=True, exist_ok=True)
            write_judgments(table, beside / TESTS / "frozen" / f"{documents}.jsonl")
        contracts.write(world.knowledge(), beside / KNOWLEDGE, contracts.KNOWLEDGE)
        log, figures = traffic.simulated(world.documents(0), 0, world, cast(Any, Cosine(stage)), stage)
        contracts.write(log, beside / LOG / "window=0", contracts.IMPRESSIONS)
        write_text(beside / "params.yaml", params)
    return figures


def write_catalogue(world: EmojiWorld, window: int, path: Path) -> None:
    """Write the catalogue at the end of ``window`` as JSON lines."""
    rows = (
        {name: row[name] for name in ("locale", "title", "body")}
        | {"id": row["doc_id"], "published_at": row["published_at"].isoformat()}
        | dict(row["attributes"])
        for row in world.documents(window).to_pylist()
    )
    _write_lines(rows, path)


def write_judgments(table: pa.Table, path: Path) -> None:
    """Write JUDGMENTS as JSON lines: query, docid, rating and locale."""
    names = {"query": "query", "docid": "doc_id", "rating": "grade", "locale": "locale"}
    _write_lines(({name: row[column] for name, column in names.items()} for row in table.to_pylist()), path)


def write_ubi(log: pa.Table, folder: Path, name: str) -> None:
    """Write IMPRESSIONS as UBI: ``NAME-queries.ndjson.gz`` and ``NAME-events.ndjson.gz`` in ``folder``.

    What a query returned is in its own record; events are clicks, ways back from a clicked document, and dislikes, a
    page's one after the other.
    """
    import duckdb

    column = log.schema.get_field_index("event_time")
    naive = log["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    with duckdb.connect(config={"threads": 2}) as engine:
        engine.register("log", log.set_column(column, "event_time", naive))
        for kind, sql in (("queries", _QUERIES), ("events", _EVENTS)):
            engine.execute(f"COPY ({sql}) TO '{folder}/{name}-{kind}.ndjson.gz' (FORMAT json, COMPRESSION gzip)")


_TIME = "strftime({}, '%Y-%m-%dT%H:%M:%S.%gZ')"
_QUERIES = f"""
SELECT 'emoji world, simulated users' AS application, query_id, min(user_id) AS client_id,
    min(session_id) AS session_id, min(query) AS user_query, {_TIME.format("min(event_time)")} AS "timestamp",
    {{'locale': min(locale)}} AS query_attributes, list(doc_id ORDER BY position) AS query_response_hit_ids
FROM log GROUP BY query_id ORDER BY "timestamp", query_id
"""
_EVENTS = f"""
WITH acts AS (
    SELECT *, 2 * row_number() OVER page + coalesce(sum(dwell_seconds) OVER (page ROWS BETWEEN UNBOUNDED PRECEDING
        AND 1 PRECEDING), 0) AS after
    FROM log WHERE clicked OR negative_feedback WINDOW page AS (PARTITION BY query_id ORDER BY position)
), events AS (
    SELECT *, 'click' AS action_name, after AS seconds FROM acts WHERE clicked
    UNION ALL SELECT *, 'dismiss', after + 1 FROM acts WHERE negative_feedback
    UNION ALL SELECT *, 'back', after + dwell_seconds FROM acts WHERE dwell_seconds IS NOT NULL
)
SELECT action_name, query_id, user_id AS client_id, session_id,
    {_TIME.format("event_time + to_milliseconds((seconds * 1000)::BIGINT)")} AS "timestamp",
    CASE WHEN action_name <> 'back' THEN {{'object': {{'object_id': doc_id}}, 'position': {{'ordinal': position - 1}}}}
         END AS event_attributes
FROM events ORDER BY "timestamp", query_id, position, action_name
"""


def _once(tables: Sequence[pa.Table]) -> pa.Table:
    """Return each pair of the ``tables`` once; all of them have the true grade."""
    key = ["locale", "query", "doc_id"]
    both = pa.concat_tables(table.select([*key, "grade"]) for table in tables)
    return both.group_by([*key, "grade"]).aggregate([]).sort_by([(name, "ascending") for name in key])


def _write_lines(rows: Any, path: Path) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
