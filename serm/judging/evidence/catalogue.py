"""The documents that judges look at, and the pairs made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.judging.judge import Pairs
from serm.relevance import document_text


@dataclass(frozen=True)
class Catalogue:
    """The public text of m documents; each list has m items."""

    path: Path
    doc_ids: list[str]
    locales: list[str]
    titles: list[str]
    texts: list[str]
    keys: list[str | None]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each document."""
        return {doc_id: row for row, doc_id in enumerate(self.doc_ids)}

    @staticmethod
    def read(path: Path, attribute: str) -> Catalogue:
        """Read a DOCUMENTS dataset; ``attribute`` names what links a document to the outside knowledge."""
        table = contracts.read(path, contracts.DOCUMENTS).sort_by("doc_id")
        titles, bodies = table["title"].to_pylist(), table["body"].to_pylist()
        return Catalogue(
            path,
            table["doc_id"].to_pylist(),
            table["locale"].to_pylist(),
            titles,
            [document_text(title, body) for title, body in zip(titles, bodies, strict=True)],
            pc.map_lookup(table["attributes"], attribute, "first").to_pylist(),
        )

    def pairs(self, table: pa.Table) -> Pairs:
        """Return the pairs of ``table`` (query, locale, doc_id), all of documents that are here, in its order."""
        doc_ids = table["doc_id"].to_pylist()
        rows = [self.rows[doc_id] for doc_id in doc_ids]
        return Pairs(
            table["query"].to_pylist(),
            table["locale"].to_pylist(),
            doc_ids,
            [self.titles[r] for r in rows],
            [self.texts[r] for r in rows],
            [self.keys[r] for r in rows],
        )
