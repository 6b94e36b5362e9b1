"""Result pages with their clicks: the sufficient statistics of every click model, aggregated by the engine.

A model that reads a page as a whole (a user who is satisfied sees nothing below) needs more than counts of pairs and
positions. What it needs is how often each page was seen: the same documents in the same places with the same clicks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import ibis
import numpy as np
from numpy.typing import NDArray

from serm.clicks.counts import PAIR

Array = NDArray[np.float64]

#: Rows further down count as on this rank, so that no position of a log says how much memory it takes.
DEEPEST = 1000
#: The rows of a page; what has more (an id that all searches share) is no page that anyone saw, and is read as several.
LONGEST = 1000
#: A row of a page as one integer that sorts by position: position, then 33 bits of pair, then whether it was clicked.
_PAIR_BITS = 33
#: Three pages in sixteen are held out: those whose id's md5 starts below this hexadecimal digit.
_HELD_OUT_BELOW = "3"


def number(impressions: ibis.Table, counts: ibis.Table) -> ibis.Table:
    """Return one row for each impression: query_id, ``asked`` (its query's number, from 0) and ``row`` (an integer).

    Args:
        impressions: a table with the columns of ``contracts.IMPRESSIONS``.
        counts: the rows of ``clicks.count``, which number the pairs.
    """
    pairs = counts.select(*PAIR, "pair").distinct()
    pairs = pairs.mutate(asked=ibis.dense_rank().over(order_by=("query", "locale")))
    shown = impressions.select(*PAIR, "query_id", "position", "clicked").join(pairs, PAIR)
    place = ibis.least(shown.position, DEEPEST).cast("int64") * 2 ** (_PAIR_BITS + 1)
    return shown.select("query_id", "asked", row=place + shown.pair * 2 + shown.clicked.cast("int64"))


def aggregate(numbered: ibis.Table) -> ibis.Table:
    """Return one row for each different page: rows (sorted integers), held_out, and pages, how many there are.

    ``numbered`` are the rows of ``number``; those of a query_id and a query are a page. A page is held out by a hash
    of its query_id, so wholly or not at all.
    """
    pages = numbered.group_by("query_id", "asked").aggregate(rows=numbered.row.collect())
    pages = pages.select(rows=pages.rows.sort(), held_out=pages.query_id.hexdigest("md5") < _HELD_OUT_BELOW)
    return pages.group_by("rows", "held_out").aggregate(pages=pages.count()).order_by("rows", "held_out")


@dataclass(frozen=True)
class Pages:
    """Different pages, each with the number of times that it was seen.

    The rows of page i are ``start[i]`` to ``start[i + 1]``, in the order of their positions. Positions may have gaps
    (a row in quarantine) and begin after 1; ``DEEPEST`` is the last.
    """

    pair: NDArray[np.int32]
    """[rows], from 0."""
    position: NDArray[np.int32]
    """[rows], from 1."""
    clicked: NDArray[np.bool_]
    """[rows]"""
    start: NDArray[np.int64]
    """[pages + 1]"""
    seen: NDArray[np.int64]
    """[pages]"""
    pairs: int
    """How many pairs there are, of which these pages may show some only."""
    first: int
    """The first position of the log, where every user begins."""
    last: int
    """The last position of the log, ``DEEPEST`` at most."""

    @property
    def impressions(self) -> int:
        """How many documents were shown."""
        return int(self.weight.sum())

    @cached_property
    def page(self) -> NDArray[np.int32]:
        """[rows], the page that a row stands on."""
        return np.repeat(np.arange(len(self.seen), dtype=np.int32), np.diff(self.start))

    @cached_property
    def weight(self) -> NDArray[np.int64]:
        """[rows], how many times a row was seen."""
        return np.repeat(self.seen, np.diff(self.start))

    @cached_property
    def last_click(self) -> NDArray[np.int64]:
        """[pages], the row that was clicked last; one before the page's first row if none was."""
        rows = np.flatnonzero(self.clicked)
        last = self.start[:-1] - 1
        last[self.page[rows]] = rows  # in order, so that the last one stays
        return last

    @cached_property
    def clicked_before(self) -> NDArray[np.int32]:
        """[rows], the position of the last click above on the page; 0 if there is none."""
        rows = np.arange(len(self.pair))
        latest = np.maximum.accumulate(np.where(self.clicked, rows, -1))
        above = np.concatenate([[-1], latest[:-1]])
        there = above >= self.start[self.page]
        before: NDArray[np.int32] = np.where(there, self.position[above], 0)
        return before

    def select(self, chosen: NDArray[np.bool_]) -> Pages:
        """Return the chosen pages; bool [pages]."""
        length = np.diff(self.start)
        row = np.repeat(chosen, length)
        start = np.concatenate([[0], np.cumsum(length[chosen])])
        columns = self.pair[row], self.position[row], self.clicked[row]
        return Pages(*columns, start, self.seen[chosen], self.pairs, self.first, self.last)


def read_pages(aggregated: ibis.Table, first: int, last: int) -> tuple[Pages, NDArray[np.bool_], NDArray[np.int64]]:
    """Bring the pages of ``aggregate`` into memory, in a fixed order.

    Returns:
        The pages, whose pairs are numbered anew from 0; bool [pages], whether a page is held out; and [pairs], the
        number that each pair has in the log.
    """
    table = aggregated.select("rows", "held_out", "pages").to_pyarrow()
    rows = table["rows"].combine_chunks()
    row = rows.flatten().to_numpy()
    start = np.concatenate([[0], np.cumsum(rows.value_lengths().to_numpy(), dtype=np.int64)])
    log_pair, pair = np.unique((row >> 1) & (2**_PAIR_BITS - 1), return_inverse=True)
    position = (row >> (_PAIR_BITS + 1)).astype(np.int32)
    start, page = _cut(start)
    held_out, seen = (table[name].to_numpy()[page] for name in ("held_out", "pages"))
    columns = pair.astype(np.int32), position, (row & 1).astype(bool), start, seen
    return Pages(*columns, len(log_pair), first, min(last, DEEPEST)), held_out, log_pair


def _cut(start: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts of pages cut after every ``LONGEST`` rows, and for each of the parts its page."""
    parts = -(-np.diff(start) // LONGEST)
    page = np.repeat(np.arange(len(parts)), parts)
    part = np.arange(len(page)) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.concatenate([start[page] + part * LONGEST, start[-1:]]), page


def read_parts(
    numbered: ibis.Table, parts: int, first: int, last: int
) -> Iterator[tuple[Pages, NDArray[np.bool_], NDArray[np.int64]]]:
    """Read the log's queries in ``parts`` of about equal size, one after another (see ``read_pages``)."""
    for part in range(parts):
        pages, held_out, log_pair = read_pages(aggregate(numbered.filter(numbered.asked % parts == part)), first, last)
        if len(log_pair):
            yield pages, held_out, log_pair


def sums(group: NDArray[np.integer], values: NDArray[np.number], groups: int) -> Array:
    """Return [groups]: the sum of the values of each group, as floats even if there are none."""
    total: Array = np.bincount(group, values, groups).astype(np.float64, copy=False)
    return total
