"""Result pages for the tests of click models: written by hand, or drawn from a model with known parameters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import hypothesis.strategies as st
import ibis
import numpy as np
import pyarrow as pa

from serm import contracts
from serm.clicks.pages import Pages
from serm.settings import ClickSettings

WEAK_PRIOR = ClickSettings(iterations=3000, tolerance=1e-13, prior_clicks=1e-6, prior_skips=1e-6)

#: How often a page was seen, and its rows: (pair, position, clicked).
Page = tuple[int, Sequence[tuple[int, int, bool]]]


def pages_of(*pages: Page) -> Pages:
    """Put pages together; the first and the last position are those that they have."""
    rows = [row for _, page in pages for row in page]
    pair, position, clicked = (np.array(column) for column in zip(*rows, strict=True))
    start = np.cumsum([0, *(len(page) for _, page in pages)])
    seen = np.array([count for count, _ in pages])
    pairs, first, last = int(pair.max()) + 1, int(position.min()), int(position.max())
    return Pages(
        pair.astype(np.int32), position.astype(np.int32), clicked.astype(bool), start, seen, pairs, first, last
    )


def pages_from(pair: np.ndarray, clicked: np.ndarray) -> Pages:
    """Make pages without gaps of arrays [pages, ranks]."""
    count, ranks = pair.shape
    position = np.tile(np.arange(1, ranks + 1, dtype=np.int32), count)
    start = np.arange(0, pair.size + 1, ranks)
    seen, pairs = np.ones(count, dtype=np.int64), int(pair.max()) + 1
    return Pages(pair.ravel().astype(np.int32), position, clicked.ravel(), start, seen, pairs, 1, ranks)


def rankings(queries: int, pages: int, ranks: int, rng: np.random.Generator) -> np.ndarray:
    """Return pairs [queries * pages, ranks]: the documents of each query, in an order drawn for each page."""
    order = rng.random((queries, pages, ranks)).argsort(axis=2)
    return (order + ranks * np.arange(queries)[:, None, None]).reshape(queries * pages, ranks)


def pbm_clicks(pair: np.ndarray, attractiveness: np.ndarray, examination: np.ndarray, rng: np.random.Generator):
    return rng.random(pair.shape) < attractiveness[pair] * examination


def ubm_clicks(pair: np.ndarray, attractiveness: np.ndarray, examination: np.ndarray, rng: np.random.Generator):
    """``examination`` [ranks, ranks + 1] by rank and by the position of the last click, 0 for none."""
    clicked, last = np.zeros(pair.shape, bool), np.zeros(len(pair), int)
    for rank in range(pair.shape[1]):
        chance = attractiveness[pair[:, rank]] * examination[rank, last]
        clicked[:, rank] = rng.random(len(pair)) < chance
        last[clicked[:, rank]] = rank + 1
    return clicked


def dbn_clicks(
    pair: np.ndarray,
    attractiveness: np.ndarray,
    satisfaction: np.ndarray,
    continuation: float,
    rng: np.random.Generator,
) -> np.ndarray:
    clicked, reading = np.zeros(pair.shape, bool), np.ones(len(pair), bool)
    for rank in range(pair.shape[1]):
        chance = rng.random((3, len(pair)))
        clicked[:, rank] = reading & (chance[0] < attractiveness[pair[:, rank]])
        content = clicked[:, rank] & (chance[1] < satisfaction[pair[:, rank]])
        reading &= ~content & (chance[2] < continuation)
    return clicked


@st.composite
def logs(draw: st.DrawFn) -> Pages:
    """A few pages with gaps, late starts, rows at one position, and documents on several of them."""
    pages = []
    for _ in range(draw(st.integers(1, 8))):
        positions = sorted(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
        pages.append(
            (draw(st.integers(1, 30)), [(draw(st.integers(0, 4)), at, draw(st.booleans())) for at in positions])
        )
    return pages_of(*pages)


def impressions(rows: list[tuple[str, str, str, str, int, bool]]) -> ibis.Table:
    """Rows are (query_id, query, locale, doc_id, position, clicked)."""
    query_id, query, locale, doc_id, position, clicked = (list(column) for column in zip(*rows, strict=True))
    size = len(rows)
    columns = {
        "event_time": [datetime(2018, 1, 1, tzinfo=UTC)] * size,
        "query_id": query_id,
        **{name: ["x"] * size for name in ("session_id", "user_id")},
        **{"query": query, "locale": locale, "doc_id": doc_id, "position": position, "clicked": clicked},
        **{name: [None] * size for name in ("dwell_seconds", "click_seconds")},
        "negative_feedback": [False] * size,
        **{name: [None] * size for name in ("score", "model_version", "variant")},
    }
    return ibis.memtable(pa.table(columns, schema=contracts.IMPRESSIONS))
