"""Gold: seed judgments that no prompt shows, drawn evenly, and how a batch's labels stand beside them."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serm.judging.judge import GRADES, Integers, Pairs
from serm.judging.trust import Figures, measure


def draw(pairs: Pairs, grades: Integers, rows: Integers, count: int, salt: str) -> Integers:
    """Draw up to ``count`` of ``rows``, as evenly over grades and locales as they allow; sorted.

    The draw depends on nothing but ``salt`` and the pairs themselves, so another cycle (another salt) draws others.
    """
    hashes = {
        row: hashlib.sha256(f"{salt}\t{pairs.queries[row]}\t{pairs.doc_ids[row]}".encode()).digest()
        for row in rows.tolist()
    }
    turn: Counter[tuple[int, str]] = Counter()
    places: dict[int, tuple[int, bytes]] = {}
    for row in sorted(hashes, key=lambda row: hashes[row]):
        cell = (int(grades[row]), pairs.locales[row])
        places[row] = (turn[cell], hashes[row])
        turn[cell] += 1
    return np.array(sorted(sorted(places, key=lambda row: places[row])[:count]), np.int64)


def ratings(labels: Integers, truth: Integers, kept: NDArray[np.bool_], locales: list[str]) -> dict[str, Any]:
    """Compare the ``kept`` ones of ``labels`` [n] with ``truth`` [n], over all pairs, by true grade and by locale.

    Returns:
        As ``trust.measure``, and the shares ``over_rated`` and ``under_rated`` of the kept labels that lie above and
        below the true grade; ``by_grade`` and ``by_locale`` hold the same of each.
    """
    of = np.array(locales)
    slices = {"by_grade": {str(g): truth == g for g in range(GRADES)}, "by_locale": {x: of == x for x in set(locales)}}
    return _rating(labels, truth, kept) | {
        name: {
            value: _rating(labels[rows], truth[rows], kept[rows]) for value, rows in sorted(parts.items()) if rows.any()
        }
        for name, parts in slices.items()
    }


def _rating(labels: Integers, truth: Integers, kept: NDArray[np.bool_]) -> dict[str, Any]:
    figures: Figures = measure(labels, truth, kept)
    over = under = None
    if kept.any():
        over = round(float((labels > truth)[kept].mean()), 4)
        under = round(float((labels < truth)[kept].mean()), 4)
    return {**figures, "over_rated": over, "under_rated": under}
