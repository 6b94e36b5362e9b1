"""Judgments that a person mends or takes out, at each place from which an earlier one would come back."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serm import contracts
from serm.atomic import recover, replace_directory
from serm.errors import UserError
from serm.layout import JUDGMENTS, LOCK, REVIEWED, SUPERSEDED, TEST_REVIEWED, TESTS
from serm.pairs import answers
from serm.pairs.answers import Key
from serm.pairs.test_sets import ANNOTATED, DOCUMENTS, DRAWN, PEOPLE, SERVED
from serm.workspace.lock import reviews_at_rest
from serm.workspace.merge import RETIRED, add_trace, keep

_KEY = ("query", "locale", "doc_id")


@dataclass(frozen=True)
class _Places:
    """Where the judgments of a pair are; all are datasets of JUDGMENTS."""

    root: Path
    judged: tuple[Path, ...]
    """Those that are read: the state, or both choices of documents of a test set."""
    trace: Path
    """Where what no longer stands is kept."""
    answers: tuple[Path, ...] = ()
    """What people said last of each pair, which is merged again and again; what is corrected is said there too, so that
    an earlier answer that comes later is known for one."""
    panel: tuple[Path, ...] = ()
    """What a panel said, from which a test set is made anew."""
    drawn: Path | None = None
    """Of the rolling test set: what was drawn for it."""


def _places(judgments: Path) -> _Places:
    path = judgments.absolute()
    if path.parts[-2:] == JUDGMENTS.parts:
        root = path.parents[1]
        return _Places(root, (path,), root / SUPERSEDED, (root / REVIEWED,))
    if path.name not in DOCUMENTS or path.parents[1].name != TESTS.name:
        return _Places(path.parent, (path,), path.with_name(SUPERSEDED.name))
    tests, root = path.parents[1], path.parents[2]
    both = tuple(path.with_name(name) for name in DOCUMENTS)
    if path.parent.name != "rolling":
        return _Places(root, both, root / SUPERSEDED)
    people = (tests / PEOPLE, root / TEST_REVIEWED) if (tests / PEOPLE).parent.is_dir() else ()
    return _Places(root, both, root / SUPERSEDED, people, (tests / ANNOTATED / "judgments",), tests / DRAWN)


def correct(judgments: Path, pair: Key, grade: int, by: str, why: str, cycle: int) -> int | None:
    """Give a pair a person's grade, whatever it had; the earlier one is kept, as by ``merge.keep``.

    Args:
        judgments: the dataset to mend. Of a test set, both its served and its pool documents are.
        pair: which pair; it need not be judged yet.
        grade: 0 to 3.
        by: who says so.
        why: the reason, which becomes the judgment's rationale.
        cycle: the cycle in which it is said; in a test set a pair keeps the one that it has.

    Returns:
        The grade that it had; None: the pair was not judged, and is now.

    Raises:
        UserError: there are no judgments, or the pair is of a query that was drawn for the rolling test set, and has
            no grade there.
    """
    places = _places(judgments)
    _require_judgments(places, judgments)
    rows = [row for path in places.judged if path.exists() for row in _of(_read(path), pair).to_pylist()]
    stood = rows[0] if rows else None
    if stood is None and places.drawn is not None and _is_drawn(places.drawn, pair):
        raise UserError(
            f"{judgments}: no judgment of query {pair[0]!r} ({pair[1]}) with doc_id {pair[2]!r}; what was drawn for the"
            " rolling test set is graded with `serm review --tests`."
        )
    if len(places.judged) > 1:
        cycle = stood["cycle"] if stood else _first_cycle(places.judged, pair, cycle)
    elif stood and stood["source"] == "human":
        cycle = max(cycle, stood["cycle"])
    values = dict(zip(_KEY, pair, strict=True)) | {"grade": grade, "source": "human", "cycle": cycle}
    row = pa.Table.from_pylist([values | {"rationale": f"{by}: {why}"}], schema=contracts.JUDGMENTS)
    with _at_rest(places):
        _say(places, pair, row, answers.line(answers.CORRECTION, pair, grade, f"{by}: {why}"))
        for path in places.judged:
            is_there = path.exists() and _of(_read(path), pair).num_rows
            if is_there or (stood is None and (path.name != SERVED or path == judgments.absolute())):
                keep(row, path, places.trace)
    return None if stood is None else int(stood["grade"])


def retire(judgments: Path, pair: Key, by: str, why: str) -> None:
    """Take the judgment of a pair out; it is kept with who took it out and why. No panel brings it back.

    Of a test set, its served and its pool documents lose it.

    Raises:
        UserError: there is no judgment of the pair.
    """
    places = _places(judgments)
    _require_judgments(places, judgments)
    lost = [_of(_read(path), pair) for path in places.judged]
    if not any(table.num_rows for table in lost):
        raise UserError(f"{judgments}: no judgment of query {pair[0]!r} ({pair[1]}) with doc_id {pair[2]!r}.")
    told = max(lost, key=lambda table: table.num_rows).slice(0, 1)
    column = told.column_names.index("rationale")
    add_trace(told.set_column(column, "rationale", pa.array([f"{RETIRED}{by}: {why}"])), places.trace)
    with _at_rest(places):
        _say(places, pair, None, answers.line(answers.CORRECTION, pair, None, f"{RETIRED}{by}: {why}"))
        for path in (*places.panel, *places.judged):
            if path.exists() and _of(_read(path), pair).num_rows:
                _write(path, _without(_read(path), pair))


def _require_judgments(places: _Places, judgments: Path) -> None:
    for path in places.judged:
        recover(path)
    if not any(path.exists() for path in places.judged):
        raise UserError(f"{judgments}: no judgments there; go into a workspace, or give their path with --judgments.")


@contextmanager
def _at_rest(places: _Places) -> Iterator[None]:
    """Keep `serm review` from writing meanwhile."""
    reviewed = [path for path in places.answers if path.parent == places.root]
    if not reviewed:
        yield
        return
    (places.root / LOCK.parent).mkdir(exist_ok=True)
    with reviews_at_rest(places.root, reviewed[0]):
        yield


def _say(places: _Places, pair: Key, row: pa.Table | None, line: str) -> None:
    """Let ``row``, or nothing, be what people said last of a pair."""
    for path in places.answers:
        rest = _without(_read(path), pair)
        said = line.encode() if path.parent == places.root else b""  # `serm review` reads no other
        _write(path, rest if row is None else pa.concat_tables([rest, row]), said)


def _read(path: Path) -> pa.Table:
    recover(path)
    return contracts.read(path, contracts.JUDGMENTS) if path.exists() else contracts.JUDGMENTS.empty_table()


def _write(path: Path, table: pa.Table, said: bytes = b"") -> None:
    """Replace the rows of a dataset; what `serm review` keeps beside them stays, and ``said`` joins its answers."""
    rows = table.sort_by([(name, "ascending") for name in _KEY])
    with replace_directory(path) as beside:
        pq.write_table(
            contracts.conform(rows, path, contracts.JUDGMENTS), beside / "part-0.parquet", compression="zstd"
        )
        for file in path.iterdir() if path.exists() else ():
            if file.suffix != ".parquet":
                shutil.copyfile(file, beside / file.name)
        if said:
            (beside / answers.ANSWERS).write_bytes(answers.read(path) + said)


def _is_pair(table: pa.Table, pair: Iterable[Any], names: Iterable[str] = _KEY) -> pa.ChunkedArray:
    found = pc.is_valid(table["query"])
    for name, value in zip(names, pair, strict=False):
        found = pc.and_(found, pc.equal(table[name], value))
    return found


def _of(table: pa.Table, pair: Key) -> pa.Table:
    return table.filter(_is_pair(table, pair))


def _without(table: pa.Table, pair: Key) -> pa.Table:
    return table.filter(pc.invert(_is_pair(table, pair)))


def _is_drawn(drawn: Path, pair: Key) -> bool:
    if not drawn.exists():
        return False
    table = contracts.read(drawn, contracts.DRAWN)
    return bool(pc.any(_is_pair(table, pair[:2])).as_py())


def _first_cycle(judged: Iterable[Path], pair: Key, cycle: int) -> int:
    """Return the cycle that the query has in a test set; where it is not asked there, ``cycle``."""
    tables = [table.filter(_is_pair(table, pair[:2])) for table in map(_read, judged)]
    return min((found for table in tables for found in table["cycle"].to_pylist()), default=cycle)
