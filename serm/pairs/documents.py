"""Pairs beside their documents, joined in the engine, and the one policy for a document that is gone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm import contracts
from serm.errors import UserError

_LOG = logging.getLogger(__name__)


REMOVED = "_removed"
"""In the catalogue's directory: the ids of documents that were taken out of it (contracts.REMOVED)."""


def removed(engine: BaseBackend, documents: Path) -> ibis.Table | None:
    """Return the ids (``doc_id``) that were taken out of the catalogue ``documents``; None where none ever was."""
    path = documents / REMOVED
    return contracts.scan(engine, path, contracts.REMOVED) if path.exists() else None


@dataclass(frozen=True)
class Joined:
    """Pairs beside their documents."""

    pairs: pa.Table
    """Those whose document is in the catalogue, in the order given, with the document's columns."""
    retired: pa.Table
    """The others, as they were given."""


def with_documents(pairs: ibis.Table, documents: ibis.Table, columns: Sequence[str] = ()) -> ibis.Table:
    """Return the ``pairs`` whose document is in ``documents`` (DOCUMENTS), with these of its ``columns``.

    Those of a document that is gone (not in the catalogue, or in quarantine) are retired: left out here and not an
    error, for a catalogue changes while its judgments stay. A document without one of the ``columns`` is gone too.
    """
    there = documents.filter([documents[name].notnull() for name in ("doc_id", *columns)])
    return pairs.join(there.select("doc_id", *columns), "doc_id") if columns else pairs.semi_join(there, "doc_id")


def join(engine: BaseBackend, pairs: pa.Table, source: Path, documents: Path, columns: Sequence[str]) -> Joined:
    """Join pairs in memory with the DOCUMENTS dataset ``documents``, of which only their documents are read.

    Which are retired is logged with their number; the datasets themselves keep them, so that they count again once
    their document is back.

    Args:
        engine: reads the catalogue.
        pairs: any columns and ``doc_id``.
        source: where the pairs are from, for messages.
        documents: the catalogue.
        columns: of the catalogue, such as ``title``; none that ``pairs`` has.

    Raises:
        UserError: there is no such catalogue, or no document of the pairs is in it.
    """
    catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
    asked = ibis.memtable(pa.table({"doc_id": pc.unique(pairs["doc_id"])}), schema=ibis.schema({"doc_id": "string"}))
    found = with_documents(asked, catalogue, columns).order_by("doc_id", *columns)  # a repeated id: always the same row
    schema = pa.schema([contracts.DOCUMENTS.field(name) for name in ("doc_id", *columns)])
    rows_of = engine.to_pyarrow(found).cast(schema)
    row = pc.index_in(pairs["doc_id"], value_set=rows_of["doc_id"])
    kept, retired = pairs.filter(pc.is_valid(row)), pairs.filter(pc.is_null(row))
    beside = rows_of.take(row.drop_null())
    for name in columns:
        kept = kept.append_column(beside.schema.field(name), beside[name])
    _tell(retired, pairs.num_rows, source, documents)
    return Joined(kept, retired)


def _tell(retired: pa.Table, total: int, source: Path, documents: Path) -> None:
    if not retired.num_rows:
        return
    example = pc.min(retired["doc_id"]).as_py()
    if retired.num_rows == total:
        raise UserError(
            f"{source}: none of the documents of its {total:,} pairs is in {documents}, such as doc_id {example!r}; "
            "give the catalogue that the pairs are of."
        )
    _LOG.warning(
        "serm: %s: %s of %s pairs are retired, as their document is gone from %s or in quarantine, such as doc_id %r",
        *(source, f"{retired.num_rows:,}", f"{total:,}", documents, example),
    )
