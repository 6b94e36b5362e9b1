"""The pairs under review and what people made of them."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_text
from serm.contracts import Grade
from serm.errors import UserError
from serm.pairs import answers as told
from serm.pairs.answers import ANSWERS, Key, Said
from serm.pairs.documents import join
from serm.settings import EngineSettings

Graded = tuple[int, str]
"""A grade, 0 to 3, and the note."""
_NEVER = datetime.min.replace(tzinfo=UTC)


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


@dataclass(frozen=True)
class Answer:
    """What one person said of one pair in another tool."""

    key: Key | None
    """None: only ``identity`` says which pair it is."""
    grade: int
    by: str = ""
    """A hash of the person's name there; empty: not told."""
    at: str = ""
    """When, as the tool writes it; empty: not told."""
    identity: str = ""
    """What the queue's export called the pair."""
    row: int = 0

    @property
    def time(self) -> datetime | None:
        """When, where the tool tells it."""
        return told.time_of(self.at)


@dataclass(frozen=True)
class Taken:
    """What became of the answers of an export."""

    changed: int
    """Pairs whose grade is new or another one."""
    outside: int
    """Of these, those that the queue does not hold; the export named them itself."""
    divided: list[Key] = field(default_factory=list)
    """Pairs on which people differ evenly: they keep the grade that they had, or none."""
    unknown: list[int] = field(default_factory=list)
    """Rows of answers to pairs that neither the queue nor the export names."""


class Reviews:
    """The review queue of a cycle and the human judgments beside it; each one is on disk before the next.

    Grades are kept as the dataset ``out`` (JUDGMENTS, source ``human``). Those of other cycles stay in it. Several
    processes may write to one ``out``: each change is made to what is on disk, under a lock. The answer to a pair that
    was given last is its judgment; all answers are in ``ANSWERS``.
    """

    def __init__(self, annotated: Path, validated: Path, out: Path) -> None:
        """Read what ``annotate`` sent to review, the documents, and the human judgments so far.

        Pairs whose document is gone are retired: nobody can grade them.

        Raises:
            UserError: a dataset is missing, or no document of the queue is in the catalogue.
        """
        self.out = out
        self.items = {item.key: item for item in _items(annotated, validated)}
        """By key, those of the highest priority first."""
        self._rows: dict[Key, dict[str, Any]] = {}
        self._seen: tuple[int, int] | None = None
        self.refresh()

    @property
    def graded(self) -> dict[Key, Graded]:
        """The grade and the note of each pair of the queue that a person graded."""
        ours = ((key, self._rows[key]) for key in self.items if key in self._rows)
        return {key: (row["grade"], row["rationale"] or "") for key, row in ours}

    @property
    def left(self) -> list[Item]:
        """The items that nobody has graded."""
        return [item for key, item in self.items.items() if key not in self._rows]

    def refresh(self) -> None:
        """Read what other processes wrote since."""
        with self._locked():
            pass

    def _reread(self) -> None:
        stamp = _stamp(self.out)
        if stamp is not None and stamp == self._seen:
            return
        try:
            judged = contracts.read(self.out, contracts.JUDGMENTS)  # also what a killed write had set aside
        except UserError:
            if self.out.exists():
                raise
            judged = contracts.JUDGMENTS.empty_table()
        self._rows = dict(zip(_keys(judged), judged.to_pylist(), strict=True))
        self._seen = _stamp(self.out)

    def grade(self, key: Key, grade: int, note: str = "", by: str = "") -> Graded | None:
        """Record a grade, 0 to 3, with what the person noted; return what stood there before.

        It is on disk when this returns.

        Raises:
            UserError: the pair is not under review.
            OSError: it could not be written; nothing changed.
        """
        if key not in self.items:
            raise UserError(f"{key[2]!r} for {key[0]!r} is not under review.")
        given = (int(Grade(grade)), storable(note))
        with self._locked():
            before = self.graded.get(key)
            self._write({key: given}, [_page(key, given, by)])
        return before

    def undo(self, key: Key, given: Graded, before: Graded | None = None, by: str = "") -> bool:
        """Put ``before`` in the place of ``given``; return False where another answer has taken its place since."""
        with self._locked():
            if self.graded.get(key) != given:
                return False
            self._write({key: before}, [_page(key, before, by)])
        return True

    def take(self, answers: Sequence[Answer]) -> Taken:
        """Record the answers of an export.

        Of one person the latest answer to a pair counts, and the grade that most people gave is the pair's; where two
        grades have as many people, the pair keeps what it had. An answer that is older than what was said here of its
        pair, on the page or by a correction, decides nothing; one that was taken before changes nothing.
        """
        named = {item.identity: key for key, item in self.items.items()}
        by_pair: dict[Key, list[Answer]] = {}
        unknown = []
        for answer in answers:
            key = answer.key or named.get(answer.identity)
            if key is None or not all(part == storable(part) for part in key):
                unknown.append(answer.row)
            else:
                by_pair.setdefault(key, []).append(answer)
        with self._locked():
            here, taken = _last(told.said(told.read(self.out)))
            changes: dict[Key, Graded | None] = {}
            lines: list[str] = []
            divided: list[Key] = []
            for key, given in by_pair.items():
                people = _latest(given)
                new = [one for one in people if _is_new(one, taken.get((one.by, key)))]
                lines += [told.line(told.IMPORT, key, one.grade, by=one.by, at=one.time) for one in new]
                deciding = [one for one in people if one.time is None or key not in here or one.time > here[key].at]
                grade = _agreed([one.grade for one in deciding])
                if deciding and grade is None:
                    divided.append(key)
                elif any(one in new for one in deciding) and grade != self._rows.get(key, {}).get("grade"):
                    changes[key] = None if grade is None else (grade, "")
            if lines:
                self._write(changes, lines)
        return Taken(len(changes), sum(key not in self.items for key in changes), divided, unknown)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of ``out``, with what is on disk read; it goes with the process, however that ends."""
        locks = self.out.parent / ".serm"  # of the workspace's, beside its other locks; git does not see it
        if not (locks / ".gitignore").exists():
            write_text(locks / ".gitignore", "*\n")
        handle = os.open(locks / f"{self.out.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._reread()
            yield
        finally:
            os.close(handle)

    def _write(self, changes: Mapping[Key, Graded | None], lines: Iterable[str]) -> None:
        """Replace the dataset and its answers at once: no reader and no kill sees one without the other."""
        rows = dict(self._rows)
        for key, graded in changes.items():
            rows.pop(key, None)
            if graded is not None:
                rows[key] = self._judgment(key, graded)
        table = pa.Table.from_pylist([rows[key] for key in sorted(rows)], contracts.JUDGMENTS)
        with replace_directory(self.out) as beside:
            judged = contracts.conform(table, self.out, contracts.JUDGMENTS)
            pq.write_table(judged, beside / "part-0.parquet", compression="zstd")
            (beside / ANSWERS).write_bytes(told.read(self.out) + "".join(lines).encode())
        self._rows = rows

    def _judgment(self, key: Key, graded: Graded) -> dict[str, Any]:
        asked = [self.items[key]] if key in self.items else self.items.values()
        before = [self._rows[key]["cycle"]] if key in self._rows else []  # a correction of a later cycle gives way too
        cycle = max((*(one.cycle for one in asked), *before), default=0)
        return {
            "query": key[0],
            "locale": key[1],
            "doc_id": key[2],
            "grade": graded[0],
            "rationale": graded[1] or None,
            "source": "human",
            "cycle": cycle,
            "panel_version": None,
            "agreement": None,
        }


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a directory is replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def storable(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it: half a surrogate pair becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _latest(answers: Iterable[Answer]) -> list[Answer]:
    """One answer a person, the latest; where the tool does not say who answered, each is a person's."""
    people: dict[object, Answer] = {}
    for answer in sorted(answers, key=lambda one: (one.time or _NEVER, one.at)):
        people[answer.by or object()] = answer
    return list(people.values())


def _agreed(grades: Iterable[int]) -> int | None:
    ranked = Counter(grades).most_common(2)
    return None if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]) else ranked[0][0]


def _last(answers: Iterable[Said]) -> tuple[dict[Key, Said], dict[tuple[str, Key], Said]]:
    """Return what was said last of each pair here, and of each person and pair what an import brought, by time."""
    here: dict[Key, Said] = {}
    taken: dict[tuple[str, Key], Said] = {}
    for one in sorted(answers, key=lambda one: one.at):
        if one.through == told.IMPORT:
            taken[one.by, one.key] = one
        elif one.grade is None and one.through == told.PAGE:  # an undo: nobody said anything
            here.pop(one.key, None)
        else:
            here[one.key] = one
    return here, taken


def _is_new(answer: Answer, before: Said | None) -> bool:
    """Whether an answer of an export says more than what an earlier import brought of the same person and pair."""
    if before is None:
        return True
    return answer.grade != before.grade if answer.time is None else answer.time > before.at


def _page(key: Key, graded: Graded | None, by: str) -> str:
    grade, note = graded or (None, "")
    return told.line(told.PAGE, key, grade, note, by)


def _items(annotated: Path, validated: Path) -> Iterable[Item]:
    review = contracts.read(annotated / "review", contracts.REVIEW)
    order = [("priority", "descending"), *((name, "ascending") for name in ("locale", "query", "doc_id"))]
    review = review.sort_by(order)
    with engines.duckdb(EngineSettings()) as engine:
        joined = join(engine, review, annotated / "review", validated / "documents", ("body",))
    evidence = _evidence(annotated)
    for row in joined.pairs.to_pylist():
        key = (row["query"], row["locale"], row["doc_id"])
        yield Item(
            key=key,
            title=row["title"],
            body=row["body"],
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
