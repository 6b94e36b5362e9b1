"""The pairs under review and what people made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.contracts import Grade
from serm.errors import UserError

Key = tuple[str, str, str]
"""Query, locale, document."""


@dataclass(frozen=True)
class Item:
    """One pair to grade."""

    key: Key
    title: str
    body: str
    priority: float
    evidence: list[dict[str, str]]
    """What was retrieved: ``source`` and ``text``."""
    reason: str
    """Why the panel did not keep the pair; it tells the judges' grades."""
    votes: list[dict[str, Any]]
    cycle: int

    @property
    def identity(self) -> str:
        """A name for the pair, for other tools: 16 hex digits."""
        return hashlib.sha256("\t".join(self.key).encode("utf-8", "replace")).hexdigest()[:16]


class Reviews:
    """The review queue of a cycle and the human judgments beside it; each one is on disk before the next.

    Grades are kept as the dataset ``out`` (JUDGMENTS, source ``human``). Those of other cycles stay in it.
    """

    def __init__(self, annotated: Path, validated: Path, out: Path) -> None:
        """Read what ``annotate`` sent to review, the documents, and the human judgments so far.

        Raises:
            UserError: a dataset is missing.
        """
        self.out = out
        self.items = {item.key: item for item in _items(annotated, validated)}
        """By key, those of the highest priority first."""
        self._earlier: pa.Table = contracts.JUDGMENTS.empty_table()
        self.graded: dict[Key, tuple[int, str]] = {}
        """The grade and the note of each pair of the queue that a person graded."""
        if out.exists():
            judged = contracts.read(out, contracts.JUDGMENTS)
            ours = [key in self.items for key in _keys(judged)]
            self._earlier = judged.filter(pa.array([not one for one in ours], pa.bool_()))
            for row in judged.filter(pa.array(ours, pa.bool_())).to_pylist():
                self.graded[row["query"], row["locale"], row["doc_id"]] = (row["grade"], row["rationale"] or "")

    @property
    def left(self) -> list[Item]:
        """The items that nobody has graded."""
        return [item for key, item in self.items.items() if key not in self.graded]

    def grade(self, key: Key, grade: int, note: str = "") -> None:
        """Record a grade, 0 to 3, with what the person noted."""
        if key not in self.items:
            raise UserError(f"{key[2]!r} for {key[0]!r} is not under review.")
        self.graded[key] = (int(Grade(grade)), note)
        self._write()

    def undo(self, key: Key) -> None:
        """Take a grade back."""
        self.graded.pop(key, None)
        self._write()

    def take(self, grades: Mapping[Key, tuple[int, str]]) -> int:
        """Record many grades at once, of pairs under review; return how many of them are new or changed."""
        known = {key: grade for key, grade in grades.items() if key in self.items}
        changed = sum(self.graded.get(key) != grade for key, grade in known.items())
        self.graded.update(known)
        self._write()
        return changed

    def _write(self) -> None:
        rows = [
            {
                "query": key[0],
                "locale": key[1],
                "doc_id": key[2],
                "grade": grade,
                "rationale": note or None,
                "source": "human",
                "cycle": self.items[key].cycle,
                "panel_version": None,
                "agreement": None,
            }
            for key, (grade, note) in sorted(self.graded.items())
        ]
        new = pa.Table.from_pylist(rows, contracts.JUDGMENTS)
        contracts.write(pa.concat_tables([self._earlier, new]), self.out, contracts.JUDGMENTS)


def _items(annotated: Path, validated: Path) -> Iterable[Item]:
    review = contracts.read(annotated / "review", contracts.REVIEW)
    order = [("priority", "descending"), *((name, "ascending") for name in ("locale", "query", "doc_id"))]
    review = review.sort_by(order)
    documents = contracts.read(validated / "documents", contracts.DOCUMENTS)
    shown = documents.filter(pc.is_in(documents["doc_id"], review["doc_id"].combine_chunks()))
    bodies = dict(zip(shown["doc_id"].to_pylist(), shown["body"].to_pylist(), strict=True))
    evidence = _evidence(annotated)
    for row in review.to_pylist():
        key = (row["query"], row["locale"], row["doc_id"])
        yield Item(
            key=key,
            title=row["title"],
            body=bodies.get(row["doc_id"], ""),
            priority=row["priority"],
            evidence=evidence.get(key, []),
            reason=row["reason"],
            votes=row["votes"],
            cycle=row["cycle"],
        )


def _evidence(annotated: Path) -> dict[Key, list[dict[str, str]]]:
    votes = contracts.read(annotated / "votes", contracts.VOTES)
    votes = votes.filter(pc.greater(pc.list_value_length(votes["evidence"]), 0))
    return dict(zip(_keys(votes), votes["evidence"].to_pylist(), strict=True))


def _keys(table: pa.Table) -> list[Key]:
    columns = (table[name].to_pylist() for name in ("query", "locale", "doc_id"))
    return list(zip(*columns, strict=True))
