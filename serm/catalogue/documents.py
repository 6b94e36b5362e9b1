"""The dataset DOCUMENTS out of a catalogue's files: made anew, or brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, replace_file
from serm.catalogue.fields import Asked, Fields
from serm.catalogue.reading import Progress, nothing, read
from serm.errors import UserError
from serm.lines import LINES, read_lines
from serm.pairs.documents import REMOVED, removed
from serm.settings import Settings

_COLUMNS = ", ".join(contracts.DOCUMENTS.names)


@dataclass(frozen=True)
class Taken:
    """What became of a catalogue's documents."""

    fields: Fields | None
    """What was read as what; None where no files were."""
    figures: dict[str, Any]
    """Of ``reading.read``; of an update also ``added``, ``changed``, ``unchanged``, ``removed``, ``documents`` (all
    that are there now), and by the path of each dataset of judgments how many of its rows are ``retired``."""
    examples: list[dict[str, Any]]
    """The first three documents, in the order of their ids."""


def import_documents(
    catalogue: Path,
    documents: Path | None,
    bad: Path | None,
    asked: Asked,
    settings: Settings,
    progress: Progress = lambda rows: None,
) -> Taken:
    """Write the documents of ``catalogue`` to the dataset ``documents``, sorted by id: the same files, the same bytes.

    Args:
        catalogue: what ``reading.read`` reads.
        documents: the dataset to write, atomically; None: nothing is written.
        bad: a file for what cannot be kept: an object a line with file, line and reason. Where nothing is, there is no
            such file afterwards.
        asked: which field is what.
        settings: the sections ``engine`` and ``stream`` (its locale) are used.
        progress: is told how many records were read so far.

    Raises:
        UserError: as ``reading.read`` says, or nothing can be written there.
    """
    with read(catalogue, asked, settings, progress) as found:
        if documents is not None:
            _write(found.engine, "documents", documents)
        _set_aside(found.engine, bad)
        return Taken(found.fields, found.figures, _examples(found.engine))


def update_documents(
    catalogue: Path | None,
    documents: Path,
    bad: Path | None,
    asked: Asked,
    settings: Settings,
    *,
    gone: Path | None = None,
    snapshot: bool = False,
    judgments: Sequence[Path] = (),
    dry_run: bool = False,
    progress: Progress = lambda rows: None,
) -> Taken:
    """Bring the dataset ``documents`` up to date by ids: with what is new or changed, and without what is gone.

    A document that is quarantined in ``catalogue`` stays as it was, in a snapshot too.

    Args:
        catalogue: the new and the changed documents; others in it change nothing. None: documents only go.
        documents: the dataset, replaced atomically.
        bad: as for ``import_documents``.
        asked: as for ``import_documents``.
        settings: as for ``import_documents``.
        gone: a file with the id of a document that is gone on each line.
        snapshot: ``catalogue`` is all there is, so that what it lacks is gone.
        judgments: datasets of JUDGMENTS, in which the rows of documents that are gone are counted: every step passes
            them by (``serm.pairs.documents``), and takes them again should the document be back.
        dry_run: nothing is written.
        progress: is told how many records were read so far.

    Raises:
        UserError: as ``import_documents``; there are no documents to update, ``gone`` cannot be read or names a
            document that ``catalogue`` has, or nothing would be left.
    """
    if catalogue is None and (gone is None or snapshot):
        raise UserError("no PATH: give the files of documents that are new or changed, or with --gone those that go.")
    with nothing(settings) if catalogue is None else read(catalogue, asked, settings, progress) as found:
        engine = found.engine
        _open(engine, documents)
        unknown = _gone(engine, gone)
        for statement in engine.con.extract_statements(_CHANGES):
            engine.con.execute(statement, {name: snapshot for name in statement.named_parameters})
        (counts,) = engine.con.sql(_COUNTS).to_arrow_table().to_pylist()
        if not counts["documents"]:
            raise UserError(f"{catalogue or gone}: no document would be left in {documents}; some have to stay.")
        retired = {str(path): _retired(engine, path) for path in judgments if path.exists()}
        if not dry_run:
            _write(engine, "now", documents)
        _set_aside(engine, None if dry_run else bad)
        return Taken(found.fields, {**found.figures, **counts, **unknown, "retired": retired}, _examples(engine))


#: ``state`` says of each document of ``catalogue`` what it is to the ones before, ``removed`` has the ids that go.
_CHANGES = f"""
CREATE TEMP TABLE state AS
SELECT new.doc_id, CASE WHEN earlier.doc_id IS NULL THEN 'added'
    WHEN {" OR ".join(f"new.{name} IS DISTINCT FROM earlier.{name}" for name in contracts.DOCUMENTS.names[1:-1])}
        OR list_sort(map_entries(new.attributes)) IS DISTINCT FROM list_sort(map_entries(earlier.attributes))
    THEN 'changed' ELSE 'unchanged' END AS what
FROM documents new LEFT JOIN earlier USING (doc_id);

CREATE TEMP TABLE removed AS
SELECT doc_id FROM earlier SEMI JOIN gone USING (doc_id)
UNION
SELECT doc_id FROM earlier ANTI JOIN documents USING (doc_id) ANTI JOIN bad USING (doc_id) WHERE $snapshot;

CREATE TEMP VIEW gone_by_now AS
SELECT doc_id FROM removed UNION SELECT doc_id FROM removed_earlier ANTI JOIN documents USING (doc_id);

CREATE TEMP VIEW now AS
SELECT {_COLUMNS} FROM documents
UNION ALL SELECT {_COLUMNS} FROM earlier ANTI JOIN documents USING (doc_id) ANTI JOIN removed USING (doc_id);
"""
_COUNTS = """
SELECT count(*) FILTER (what = 'added') AS added, count(*) FILTER (what = 'changed') AS changed,
    count(*) FILTER (what = 'unchanged') AS unchanged, (SELECT count(*) FROM removed) AS removed,
    (SELECT count(*) FROM now) AS documents
FROM state
"""


def _open(engine: BaseBackend, documents: Path) -> None:
    """Copy the dataset into the table ``earlier``: what is there now is about to be replaced."""
    if not documents.exists():
        raise UserError(f"{documents}: no documents there to update; make them with `serm documents import`.")
    engines.hold(engine, "earlier", contracts.scan(engine, documents, contracts.DOCUMENTS))
    gone = removed(engine, documents)
    rows = pa.table({"doc_id": pa.array([], pa.string())}) if gone is None else engine.to_pyarrow(gone)
    engine.con.register("removed_earlier", rows)
    twice = engine.con.execute("SELECT doc_id FROM earlier GROUP BY ALL HAVING count(*) > 1 LIMIT 1").fetchall()
    if twice:
        raise UserError(
            f"{documents}: the id {twice[0][0]!r} is there twice; make them anew with `serm documents import`."
        )


def _gone(engine: BaseBackend, gone: Path | None) -> dict[str, int]:
    """Make the table ``gone`` of the ids in a file, and return how many of them are of no document."""
    lines = LINES.empty_table()
    if gone is not None:
        if not gone.is_file():
            raise UserError(f"{gone}: no such file; give the ids of documents that are gone, one on each line.")
        lines = read_lines([gone]).read_all()
    for line, reason in zip(lines["line"].to_pylist(), lines["reason"].to_pylist(), strict=True):
        if reason:
            raise UserError(f"{gone}: line {line}: {reason}; mend it.")
    engine.con.register("gone_lines", lines)
    engine.con.execute("CREATE TEMP TABLE gone AS SELECT DISTINCT text AS doc_id FROM gone_lines")
    ((both,),) = engine.con.execute("SELECT min(doc_id) FROM gone SEMI JOIN documents USING (doc_id)").fetchall()
    if both is not None:
        raise UserError(f"{gone}: it names {both!r}, which the new documents have; take it out of one of the two.")
    ((unknown,),) = engine.con.execute("SELECT count(*) FROM gone ANTI JOIN earlier USING (doc_id)").fetchall()
    return {"gone_unknown": unknown} if gone is not None else {}


def _retired(engine: BaseBackend, judgments: Path) -> int:
    rows = contracts.scan(engine, judgments, contracts.JUDGMENTS)
    return int(rows.semi_join(engine.table("removed"), "doc_id").count().to_pyarrow().as_py())


def _write(engine: BaseBackend, table: str, documents: Path) -> None:
    """Replace the dataset, and with ``now`` the ids that were taken out of it so far."""
    with replace_directory(documents) as beside:
        order = (contracts.DOCUMENTS.names[0],)
        written = engines.write(engine, engine.table(table), beside, contracts.DOCUMENTS, order)
        if table == "now" and engine.con.execute("SELECT 1 FROM gone_by_now LIMIT 1").fetchall():
            engines.write(engine, engine.table("gone_by_now"), beside / REMOVED, contracts.REMOVED, order)
    wanted = engine.con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    if written != wanted:
        raise RuntimeError(f"documents lost: {wanted} to be written, {written} in {documents}")


def _set_aside(engine: BaseBackend, bad: Path | None) -> None:
    """Write what is no document to the file ``bad``; one that lies there from an earlier import goes."""
    if bad is None:
        return
    if engine.con.execute("SELECT 1 FROM bad LIMIT 1").fetchall():
        with replace_file(bad) as beside:
            engine.con.execute(
                "COPY (SELECT file, line, reason FROM bad ORDER BY file, line) TO $path (FORMAT json)",
                {"path": str(beside)},
            )
    else:
        bad.unlink(missing_ok=True)


def _examples(engine: BaseBackend) -> list[dict[str, Any]]:
    rows = engine.con.sql(f"SELECT {_COLUMNS} FROM documents ORDER BY doc_id LIMIT 3").to_arrow_table()
    return [{**row, "attributes": dict(row["attributes"])} for row in rows.to_pylist()]
