"""The emoji world: names of emoji as documents, CLDR's keywords as queries, windows of Unicode releases.

Everything that a workspace is given of the world is decided here and in ``serm.worlds.pools``; the numbers
behind it are in ``emoji_data/DATASHEET.md``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts

Split = Literal["train", "frozen", "rolling"]
Array = npt.NDArray[Any]

#: Window -> (start, end). Window 0 is the reference that cycle 1 compares with; cycle k learns from window k.
WINDOWS = (
    (datetime(2016, 1, 1, tzinfo=UTC), datetime(2017, 1, 1, tzinfo=UTC)),
    (datetime(2017, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)),
    (datetime(2019, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)),
    (datetime(2021, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
)

#: Window -> the locales that launch at its start.
LAUNCHES = (
    ("de", "en", "es", "fr", "it", "ja", "pt", "ru"),
    ("nl", "pl", "sv"),
    ("ko", "uk", "zh"),
    ("bn", "hi", "th", "vi"),
)

#: Language family -> locales, for ``evaluation.families`` in params.yaml.
FAMILIES = {
    "Germanic": ("de", "en", "nl", "sv"),
    "Romance": ("es", "fr", "it", "pt"),
    "Slavic": ("pl", "ru", "uk"),
    "Asian": ("ja", "ko", "th", "vi", "zh"),
    "Indic": ("bn", "hi"),
}

#: The hidden truth: grades 2 and 3. ``listed``: CLDR lists the query as a keyword of the document.
TRUTH = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("locale", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("grade", pa.int8(), nullable=False),
        pa.field("listed", pa.bool_(), nullable=False),
        pa.field("year", pa.int32(), nullable=False),
    ]
)

#: The hidden truth: which emoji are siblings, from which grade 1 follows.
TRUTH_SUBGROUPS = pa.schema(
    [pa.field("hexcode", pa.string(), nullable=False), pa.field("subgroup", pa.string(), nullable=False)]
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATA = Path(__file__).parent / "emoji_data"


def split_of(query: str, draw: int = 1) -> Split:
    """Return the split of a query: train 70 %, frozen 15 %, rolling 15 %, by a hash of its casefolded NFC text.

    The locale takes no part, so a text that two locales share falls on one side. Another ``draw`` is another split.
    """
    text = unicodedata.normalize("NFC", query).casefold()
    share = int.from_bytes(hashlib.sha256(f"serm-emoji-{draw}:{text}".encode()).digest()[:8], "big") / 2**64
    if share < 0.70:
        return "train"
    return "frozen" if share < 0.85 else "rolling"


@dataclass(frozen=True)
class Truth:
    """The hidden truth as arrays: Q queries (sorted by locale and text) by E emoji (sorted by hexcode)."""

    queries: Array
    """str [Q]"""
    locales: Array
    """str [Q], the locale of each query"""
    splits: Array
    """str [Q], from ``split_of``"""
    hexcodes: Array
    """str [E]"""
    years: Array
    """int [E], year of release"""
    grades: Array
    """int8 [Q, E], 0 to 3, of the emoji's document in the query's locale"""
    listed: Array
    """bool [Q, E]: CLDR lists the query as a keyword of the emoji"""

    def lookup(self, queries: pa.Array, locales: pa.Array, doc_ids: pa.Array) -> Array:
        """Return the grade of each (query, locale, document): int8 [n], -1 where the query is not in the world.

        A document of another locale than the query's has grade 0.
        """
        keys = pc.binary_join_element_wise(locales, queries, "\t")
        known = pa.array([f"{locale}\t{query}" for locale, query in zip(self.locales, self.queries, strict=True)])
        rows = _positions(keys, known)
        same_locale = np.asarray(pc.equal(_part(doc_ids, 0), locales))
        emoji = _positions(_part(doc_ids, 1), pa.array(self.hexcodes))
        grades = np.where(same_locale & (emoji >= 0), self.grades[rows, emoji], 0)
        return np.where(rows >= 0, grades, -1).astype(np.int8)


@dataclass(frozen=True)
class EmojiWorld:
    """The sizes and the seed of an emoji world; the same values give the same bytes."""

    seed: int = 2016
    seed_queries: int = 500
    seed_pairs: int = 10
    """Seed judgments a query."""
    test_queries: int = 700
    """Queries in the frozen set, and in each window's rolling set."""
    test_pairs: int = 16
    """Judged documents a test query."""
    window_queries: int = 2000
    """Distinct queries in the traffic of a window."""
    sessions: int = 150_000
    """Sessions in a window, before reformulations."""
    reference_sessions: int = 50_000
    """Sessions at most in window 0, which tells what is new and is not learned from."""
    positions: int = 10
    """Documents on a result page."""
    candidates: int = 13
    """Documents of the first stage that the champion ranks; the last is kept for a new document."""
    exploration: float = 0.3
    """Standard deviation of the noise the engine adds to the champion's score in a session, in grades."""
    zipf: float = 0.9
    """Exponent of the query popularity: the query of rank r has a share proportional to r**-zipf."""
    turnover: float = 0.4
    """Share of the queries whose interest is drawn anew in each window."""
    rise: float = 0.5
    """Added interest of queries that a window makes new, in standard deviations."""
    dirt: float = 0.008
    """Share of a log's rows that are spoilt, so that validation has work."""
    split: int = 1
    """The draw that splits the queries (``split_of``): worlds of one draw, whatever their seeds, share test queries."""
    windows: tuple[tuple[datetime, datetime], ...] = WINDOWS
    launches: tuple[tuple[str, ...], ...] = LAUNCHES
    """The first are the seed judgments' locales, which have always been there."""
    data: Path = _DATA

    def generator(self, *purpose: int | str) -> np.random.Generator:
        """Return the random generator for one purpose, for example ``("rolling", 2)``."""
        digest = hashlib.sha256(repr((self.seed, *purpose)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def knowledge(self) -> pa.Table:
        """Return the outside knowledge: emojilib's English keywords by emoji (KNOWLEDGE)."""
        return contracts.read(self.data / "knowledge", contracts.KNOWLEDGE)

    def documents(self, window: int) -> pa.Table:
        """Return the catalogue at the end of ``window`` (DOCUMENTS, sorted by doc_id).

        A document goes live when its emoji is released and its locale has launched, the later of the two.
        """
        table = contracts.read(self.data / "documents", contracts.DOCUMENTS)
        launch = {locale: self.windows[i][0] for i, locales in enumerate(self.launches) if i for locale in locales}
        launched = [launch.get(locale, _EPOCH) for locale in table["locale"].to_pylist()]
        kind = contracts.DOCUMENTS.field("published_at").type
        live = pa.array(np.maximum(np.asarray(table["published_at"]), np.asarray(pa.array(launched, kind))), kind)
        table = table.set_column(table.schema.get_field_index("published_at"), "published_at", live)
        return table.filter(pc.less(live, pa.scalar(self.windows[window][1], kind))).sort_by("doc_id")

    @cached_property
    def truth(self) -> Truth:
        """The hidden truth. Only the simulator, the pools of judgments and the audit may read it."""
        pairs = contracts.read(self.data / "truth", TRUTH)
        siblings = contracts.read(self.data / "truth_subgroups", TRUTH_SUBGROUPS).sort_by("hexcode")
        documents = contracts.read(self.data / "documents", contracts.DOCUMENTS)
        known = (
            pairs.group_by(["locale", "query"]).aggregate([]).sort_by([("locale", "ascending"), ("query", "ascending")])
        )
        keys = pc.binary_join_element_wise(known["locale"], known["query"], "\t")
        rows = _positions(pc.binary_join_element_wise(pairs["locale"], pairs["query"], "\t"), keys)
        emoji = _positions(_part(pairs["doc_id"], 1), siblings["hexcode"])
        grades = np.zeros((len(known), len(siblings)), np.int8)
        grades[rows, emoji] = np.asarray(pairs["grade"])
        listed = np.zeros(grades.shape, bool)
        listed[rows, emoji] = np.asarray(pairs["listed"])
        subgroup = np.unique(np.asarray(siblings["subgroup"]), return_inverse=True)[1]
        member = np.eye(subgroup.max() + 1, dtype=np.float32)[subgroup]
        sibling = ((grades >= 2).astype(np.float32) @ member > 0)[:, subgroup]
        english = documents.filter(pc.equal(documents["locale"], "en")).sort_by("doc_id")
        return Truth(
            queries=np.asarray(known["query"]),
            locales=np.asarray(known["locale"]),
            splits=np.array([split_of(query, self.split) for query in known["query"].to_pylist()]),
            hexcodes=np.asarray(siblings["hexcode"]),
            years=np.asarray(pc.year(english["published_at"])),
            grades=np.maximum(grades, sibling.astype(np.int8)),
            listed=listed,
        )

    def live_queries(self, window: int, split: Split) -> Array:
        """Return the queries of a split that people can ask by the end of ``window``: int [n], rows of ``truth``.

        Their locale has launched, and a document of grade 2 or 3 is in the catalogue.
        """
        truth = self.truth
        launched = np.isin(truth.locales, [locale for locales in self.launches[: window + 1] for locale in locales])
        answered = (truth.grades[:, self.released(truth.years, window)] >= 2).any(axis=1)
        return np.flatnonzero((truth.splits == split) & launched & answered)

    def news(self, window: int) -> Array:
        """Return what ``window`` makes new: bool [Q], a locale launched in it or a relevant emoji released in it."""
        truth = self.truth
        fresh = self.released(truth.years, window) & ~self.released(truth.years, window - 1)
        touches = (truth.grades[:, fresh] >= 2).any(axis=1)
        return touches | np.isin(truth.locales, self.launches[window])

    def released(self, years: Array, window: int) -> Array:
        """Return which release years lie before the end of ``window``: bool, none of them for window -1."""
        return years < self.windows[window][1].year if window >= 0 else np.zeros(years.shape, bool)


def document_id(locale: str, hexcode: str) -> str:
    """Return the doc_id of an emoji in a locale, for example ``de-1F600``."""
    return f"{locale}-{hexcode}"


def _part(doc_ids: pa.Array, index: int) -> pa.Array:
    """Return the locale (0) or the hexcode (1) of each doc_id; the hexcode itself may hold hyphens."""
    return pc.list_element(pc.split_pattern(doc_ids, "-", max_splits=1), index)


def _positions(values: pa.Array, among: pa.Array) -> Array:
    """Return where each value stands in ``among``: int64 [n], -1 where it does not."""
    found = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return np.asarray(found).astype(np.int64)
