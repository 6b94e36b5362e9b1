"""A catalogue's files as rows of DOCUMENTS in DuckDB: which can be kept, and which cannot, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.catalogue.fields import OUTER_ID, Asked, Field, Fields, choose
from serm.catalogue.files import CatalogueFile, catalogue_files
from serm.catalogue.records import RECORDS, read_records, sample
from serm.errors import UserError
from serm.settings import Settings

MAX_ID_BYTES, MAX_TITLE, MAX_BODY = 512, 10_000, 1_000_000
"""The longest id (OpenSearch's bound), and the longest texts in characters."""
_SAMPLE_ROWS, _SAMPLE_FILES, _MAX_NAMES = 1000, 20, 1000
_DEEPEST = 6
"""Objects within each other whose fields have names; what lies deeper is part of an attribute."""
Progress = Callable[[int], None]
"""Is told how many records were read so far."""


@dataclass(frozen=True)
class Read:
    """A catalogue that was read: tables of ``engine``, as long as it is open."""

    engine: BaseBackend
    """``documents`` has what can be kept as DOCUMENTS, a row an id; ``bad`` file, line, reason and, where it is known,
    doc_id of the others."""
    fields: Fields | None
    figures: dict[str, Any]
    """See ``figures``."""


@contextmanager
def read(catalogue: Path, asked: Asked, settings: Settings, progress: Progress = lambda rows: None) -> Iterator[Read]:
    """Read ``catalogue``, a file or a directory of them, in bounded memory.

    JSON lines, a JSON array, CSV and TSV with a header, Parquet, OpenSearch bulk or elasticdump, plain, gzip or zstd,
    told by content. Fields are those that are ``asked`` for, or guessed by their names. Of documents of one id the
    first is kept, in the order of the files' paths. A document without a date is of 1970; one without a title has its
    body's first line for one. Where no field tells a locale, it is ``settings.stream.locale``.

    ``figures`` has ``rows`` = ``kept`` + ``quarantined``, which is asserted; ``reasons`` (reason -> rows), ``locales``
    (locale -> documents, the 50 most frequent), ``undated``, ``titled_by_body``, and ``characters``: the median and the
    95th percentile of the length of title and body.

    Raises:
        UserError: no catalogue, one of no known format, a damaged file, a field that is not there or not clear, or no
            document that can be kept.
    """
    files = catalogue_files(catalogue)
    with engines.duckdb(settings.engine) as engine:
        connection = engine.con
        _prepare(connection, files)
        fields = _look(connection, catalogue, files, asked, settings.stream.locale)
        rows = _parse(connection, files, fields, settings.stream.locale, progress)
        for statement in connection.extract_statements(_SORT_OUT):
            connection.execute(statement)
        figures = _figures(connection, rows)
        if figures["kept"] + figures["quarantined"] != rows:
            raise RuntimeError(f"documents lost: {rows} read, {figures}")
        if not figures["kept"]:
            first = connection.execute("SELECT file, line, reason FROM bad ORDER BY file, line LIMIT 1").fetchall()
            file, line, reason = first[0]
            raise UserError(
                f"{catalogue}: none of its {rows:,} documents can be kept, with {_said(fields)}; line {line} of "
                f"{file}: {reason}."
            )
        yield Read(engine, fields, figures)


@contextmanager
def nothing(settings: Settings) -> Iterator[Read]:
    """Read no catalogue: ``documents`` and ``bad`` are empty."""
    columns = [*contracts.DOCUMENTS, ("is_undated", pa.bool_()), ("is_titled_by_body", pa.bool_())]
    with engines.duckdb(settings.engine) as engine:
        engine.con.register("documents", pa.schema(columns).empty_table())
        names = ("file", "reason", "doc_id")
        engine.con.register(
            "bad", pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names)]).empty_table()
        )
        yield Read(engine, None, _figures(engine.con, 0))


def look(catalogue: Path, asked: Asked, settings: Settings) -> Fields:
    """Return the fields that ``read`` would take, by the first documents of the files.

    Raises:
        UserError: as ``read`` says.
    """
    files = catalogue_files(catalogue)
    with engines.duckdb(settings.engine) as engine:
        _prepare(engine.con, files)
        return _look(engine.con, catalogue, files, asked, settings.stream.locale)


def _prepare(connection: duckdb.DuckDBPyConnection, files: list[CatalogueFile]) -> None:
    """Make the macros of documents.sql, and the table of the files."""
    numbers = pa.array(range(len(files)), pa.int32())
    connection.register("deliveries", pa.table({"delivery": numbers, "file": [file.name for file in files]}))
    sql = (package_files("serm.catalogue") / "documents.sql").read_text(encoding="utf-8")
    for statement in connection.extract_statements(sql):
        connection.execute(statement)


def _look(
    connection: duckdb.DuckDBPyConnection, catalogue: Path, files: list[CatalogueFile], asked: Asked, locale: str
) -> Fields:
    connection.register("sampled", sample(files[:_SAMPLE_FILES], _SAMPLE_ROWS))
    found = connection.execute(_NAMES).fetchall()
    if not found:
        first = "SELECT file, line, unreadable FROM opened('sampled') JOIN deliveries USING (delivery)"
        for file, line, reason in connection.execute(f"{first} ORDER BY delivery, line LIMIT 1").fetchall():
            raise UserError(f"{catalogue}: none of its first documents can be read; line {line} of {file}: {reason}.")
        raise UserError(f"{catalogue}: it holds no documents; give files that do.")
    names: dict[str, str] = {}
    for name, path in found[:_MAX_NAMES]:
        names.setdefault(name, path)  # a field that is called outer.inner comes before inner of outer
    return choose(catalogue, names, asked, locale)


#: Fields of the sample by their place in a document: name, path; those of objects within, however deep, as
#: ``outer.inner``. The id that stands outside is one, and the documents' own field of the same values then is not asked
#: about.
_NAMES = f"""
WITH RECURSIVE documents AS (
    SELECT document, outer_id, delivery, line FROM opened('sampled') WHERE unreadable IS NULL
), keys AS (
    SELECT unnest(json_keys(document)) AS key, generate_subscripts(json_keys(document), 1) AS place, document, delivery,
        line, outer_id
    FROM documents
), located AS (
    SELECT key, '/' || replace(replace(key, '~', '~0'), '/', '~1') AS path, (delivery, line, place) AS place, outer_id,
        json_extract(document, path) AS value
    FROM keys
), nested AS (
    SELECT key AS name, path, place, 1 AS depth, value, key FROM located
    UNION ALL
    SELECT name || '.' || inner_key, path || inner_path, place, depth + 1, json_extract(value, inner_path), key FROM (
        SELECT *, '/' || replace(replace(inner_key, '~', '~0'), '/', '~1') AS inner_path
        FROM (SELECT *, unnest(json_keys(value)) AS inner_key FROM nested WHERE json_type(value) = 'OBJECT')
    ) WHERE depth < {_DEEPEST}
), outer_ids AS (
    SELECT key FROM located WHERE key IN ('id', 'doc_id') GROUP BY key
    HAVING bool_and(outer_id ->> '$' = value ->> '$')
)
SELECT name, path FROM (
    SELECT '{OUTER_ID}' AS name, '/{OUTER_ID}' AS path, NULL AS place, 0 AS depth
    FROM documents HAVING count(outer_id) > 0
    UNION ALL
    SELECT name, path, min(place), depth FROM nested
    WHERE depth > 1 OR (key <> '{OUTER_ID}' AND key NOT IN (FROM outer_ids)) GROUP BY name, path, depth
) ORDER BY depth, place, name
"""


def _parse(
    connection: duckdb.DuckDBPyConnection,
    files: list[CatalogueFile],
    fields: Fields,
    locale: str,
    progress: Progress,
) -> int:
    """Make the table ``parsed`` of what each record is, and return how many there are."""
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in read_records(files):
            rows += batch.num_rows
            progress(rows)
            yield batch

    date, where = fields.published_at, fields.locale
    parts = (fields.id, fields.title, where if isinstance(where, Field) else None, date, *fields.body)
    values = {
        "paths": [one.path if one else "" for one in parts],
        "used": [OUTER_ID, *(one.name for one in parts if one)],
        "outer": fields.id.name == OUTER_ID,
        "locale": where if isinstance(where, str) else "",
    }
    limits = f"{MAX_ID_BYTES}, {MAX_TITLE}, {MAX_BODY}"
    connection.register("records", pa.RecordBatchReader.from_batches(RECORDS, counted()))
    connection.execute(
        f"CREATE TEMP TABLE parsed AS FROM documents('records', $paths, $used, $outer, $locale, {limits})", values
    )
    connection.unregister("records")
    return rows


#: Only ids that are there twice are numbered.
_SORT_OUT = """
CREATE TEMP TABLE again AS
SELECT delivery, line, doc_id, first_value((delivery, line)) OVER first AS kept, row_number() OVER first > 1 AS is_again
FROM parsed SEMI JOIN (
    SELECT doc_id FROM parsed WHERE reason IS NULL GROUP BY doc_id HAVING count(*) > 1
) USING (doc_id)
WHERE reason IS NULL
WINDOW first AS (PARTITION BY doc_id ORDER BY delivery, line);

CREATE TEMP TABLE bad AS
SELECT file, line, reason, doc_id FROM parsed JOIN deliveries USING (delivery) WHERE reason IS NOT NULL
UNION ALL
SELECT here.file, line, 'it has the id of line ' || kept[2] || ' of ' || there.file, doc_id
FROM again JOIN deliveries here USING (delivery) JOIN deliveries there ON there.delivery = kept[1]
WHERE is_again;

CREATE TEMP VIEW documents AS
SELECT doc_id, locale, title, body, published_at, attributes, is_undated, is_titled_by_body
FROM parsed ANTI JOIN (SELECT delivery, line FROM again WHERE is_again) USING (delivery, line)
WHERE reason IS NULL;
"""


_TOTALS = """
SELECT count(*) AS kept, (SELECT count(*) FROM bad) AS quarantined,
    count(*) FILTER (is_undated) AS undated, count(*) FILTER (is_titled_by_body) AS titled_by_body,
    coalesce(quantile_disc(length(title) + length(body), [0.5, 0.95]), [0, 0]) AS characters
FROM documents
"""
_REASONS = """
SELECT CASE WHEN starts_with(reason, 'it has the id of line ') THEN 'its id is repeated' ELSE reason END, count(*)
FROM bad GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 50
"""
_LOCALES = "SELECT locale, count(*) FROM documents GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 50"


def _figures(connection: duckdb.DuckDBPyConnection, rows: int) -> dict[str, Any]:
    (totals,) = connection.sql(_TOTALS).to_arrow_table().to_pylist()
    reasons, locales = (connection.execute(sql).fetchall() for sql in (_REASONS, _LOCALES))
    median, long = totals.pop("characters")
    more = {"reasons": dict(reasons), "locales": dict(locales), "characters": {"median": median, "95 %": long}}
    return {"rows": rows, **totals, **more}


def _said(fields: Fields) -> str:
    return ", ".join(f"{part} from {name}" for part, name in fields.told().items() if part in ("id", "title", "body"))
