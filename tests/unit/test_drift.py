"""News in a window: new queries and locales by searches, beside what chance alone would bring."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serm import engine as engines
from serm.drift import novelty
from serm.settings import Settings

MakeSettings = Callable[..., Settings]


def log(*searches: tuple[str, str]) -> pa.Table:
    """Two impressions for each (locale, query) searched."""
    rows = [(f"q{number}", *search) for number, search in enumerate(searches) for _ in range(2)]
    return pa.table(dict(zip(("query_id", "locale", "query"), zip(*rows, strict=True), strict=True)))


def test_news_is_counted_over_searches_and_chance_after_good_and_turing(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    reference = log(("en", "a"), ("en", "a"), ("en", "a"), ("en", "b"), ("de", "a"))
    window = log(("en", "a"), ("en", "c"), ("en", "c"), ("de", "b"), ("fr", "a"), ("en", "a"))
    pq.write_table(reference, tmp_path / "reference.parquet")
    pq.write_table(window, tmp_path / "window.parquet")
    with engines.connect(make_settings().engine) as engine:
        news = novelty.find(
            engine.read_parquet(tmp_path / "reference.parquet"), engine.read_parquet(tmp_path / "window.parquet")
        )
    assert news.searches == 6
    assert news.new_query_share == pytest.approx(4 / 6)
    assert news.expected_new_query_share == pytest.approx(2 / 5)  # "en b" and "de a" were seen once
    error = (2 * (1 - 2 / 5) + 0) / 5**2  # Esty's, and no query was seen twice
    assert news.new_query_margin == pytest.approx(2.326 * sqrt(4 / 6 * 2 / 6 / 6 + error))
    assert news.new_queries == [
        {"locale": "en", "query": "c", "searches": 2},
        {"locale": "de", "query": "b", "searches": 1},
        {"locale": "fr", "query": "a", "searches": 1},
    ]
    assert news.new_locales == {"fr": pytest.approx(1 / 6)}
