"""The seed judgments that judges calibrate on, split by query."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts
from serm.errors import UserError
from serm.pairs.text import fold
from serm.settings import JudgingSettings


def read_seed(judgments: Path, doc_ids: list[str], settings: JudgingSettings) -> pa.Table:
    """Return at most about ``calibration_pairs`` seed judgments, whole queries, in a fixed order.

    Judgments of people and earlier panels are not for calibration, so that a panel never learns from itself.
    Judgments of documents that the catalogue lacks (or validation quarantined) are left out.

    Raises:
        UserError: fewer than two queries, or fewer than two grades, are left.
    """
    table = contracts.read(judgments, contracts.JUDGMENTS)
    usable = pc.and_(pc.equal(table["source"], "seed"), pc.is_in(table["doc_id"], pa.array(doc_ids)))
    table = table.filter(usable).sort_by([(name, "ascending") for name in ("query", "locale", "doc_id", "grade")])
    order = _draw(table["query"].to_pylist(), settings.seed)
    sizes = np.bincount(order)
    chosen = np.cumsum(sizes) - sizes < settings.calibration_pairs
    table = table.filter(pa.array(chosen[order]))
    if chosen.sum() < 2 or len(table["grade"].unique()) < 2:
        raise UserError(
            f"{judgments}: the judges need seed judgments of at least two queries and two grades on documents of the"
            f" catalogue, found {chosen.sum()} queries; add judgments with source 'seed'."
        )
    return table


def read_reviewed(judgments: Path, doc_ids: list[str], unseen: Iterable[str]) -> pa.Table:
    """Return people's grades of documents of the catalogue, in a fixed order; none of a query that is in ``unseen``.

    They show LLM judges how people grade; held-out seed queries measure judges and are shown to none.
    """
    table = contracts.read(judgments, contracts.JUDGMENTS)
    usable = pc.and_(pc.equal(table["source"], "human"), pc.is_in(table["doc_id"], pa.array(doc_ids, pa.string())))
    table = table.filter(usable).sort_by([(name, "ascending") for name in ("query", "locale", "doc_id", "grade")])
    apart = {fold(query) for query in unseen}
    return table.filter(pa.array([fold(query) not in apart for query in table["query"].to_pylist()], pa.bool_()))


def held_out(seed: pa.Table, settings: JudgingSettings) -> NDArray[np.bool_]:
    """Mark the seed judgments whose query is kept out of calibration: ``held_out_share`` of them, at least one."""
    order = _draw(seed["query"].to_pylist(), settings.seed + 1)
    queries = int(order.max()) + 1
    return order < min(max(round(settings.held_out_share * queries), 1), queries - 1)


def _draw(queries: list[str], seed: int) -> NDArray[np.int64]:
    """Give each query its place in a random order that depends on nothing but its folded text and ``seed``.

    Spellings of one query have one place, so that none is held out from judges that were calibrated on another.
    """
    texts = [fold(query) for query in queries]
    hashes = {text: hashlib.sha256(f"{seed}:{text}".encode()).digest() for text in texts}
    place = {text: number for number, text in enumerate(sorted(hashes, key=lambda text: hashes[text]))}
    return np.array([place[text] for text in texts], dtype=np.int64)
