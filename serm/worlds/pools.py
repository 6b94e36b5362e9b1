"""The judgments and test sets of the emoji world, and the parts of a workspace that no champion has a say in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serm import contracts
from serm.worlds.emoji import EmojiWorld, document_id
from serm.worlds.traffic import is_fresh, nearest, with_fresh

Array = npt.NDArray[Any]

#: A test set: documents (served, pool) -> JUDGMENTS.
Tests = dict[str, pa.Table]

#: Shares of a pool: known relevant documents (grade 2 and 3) at most this many, then what the engines show for the
#: query; documents drawn at random fill the rest, so that a low cosine does not by itself mean "put in by hand".
RELEVANT, NEAREST, LOOKALIKES = 0.3, 0.4, 0.1


class Engine(Protocol):
    """A first stage of retrieval."""

    def embed_ahead(self, queries: Sequence[str], passages: Sequence[str]) -> None:
        """Be told of all the texts that are asked for next, locale by locale."""

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> Array:
        """Return ``depth`` passages for each query: int [queries, depth], nearest first."""

    def with_fresh(self, queries: Sequence[str], passages: Sequence[str], fresh: Array, depth: int) -> Array:
        """Return what is served: ``nearest``, the last place given to the nearest of ``fresh`` (bool [passages])."""


def prepare(workspace: Path, window: int, world: EmojiWorld, engine: Engine) -> None:
    """Write what a workspace may know at ``window`` (from 0): ``documents/`` and ``tests/rolling``.

    ``engine`` is the first stage: test queries are tested on what it serves, and pools are judged from its results.

    Window 0 is the founding: it has no rolling test, and writes ``knowledge/``, ``tests/frozen`` and the seed
    judgments in ``state/judgments`` instead, which never change again.
    """
    contracts.write(world.documents(window), workspace / "documents", contracts.DOCUMENTS)
    if window:
        renew_rolling(workspace, window, world, engine)
        return
    contracts.write(world.knowledge(), workspace / "knowledge", contracts.KNOWLEDGE)
    contracts.write(seed(world, engine), workspace / "state" / "judgments", contracts.JUDGMENTS)
    _write_tests(frozen(world, engine), workspace / "tests" / "frozen")


def renew_rolling(workspace: Path, window: int, world: EmojiWorld, engine: Engine) -> None:
    """Write ``tests/rolling``: what people, who are simulated and never err, judged for the window's new queries."""
    _write_tests(rolling(world, window, engine), workspace / "tests" / "rolling")


def seed(world: EmojiWorld, engine: Engine) -> pa.Table:
    """Return the seed judgments (JUDGMENTS): train queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "train"), world.seed_queries, world.generator("seed"))
    return judged(world, chosen, 0, world.seed_pairs, "seed", engine)


def frozen(world: EmojiWorld, engine: Engine) -> Tests:
    """Return the frozen test set: frozen queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "frozen"), world.test_queries, world.generator("frozen"))
    return _tests(world, chosen, 0, engine)


def rolling(world: EmojiWorld, window: int, engine: Engine) -> Tests:
    """Return the rolling test set of a window: rolling queries that the window made new.

    Their locale launched in it, or an emoji released in it answers them; such emoji come first in the pool.
    """
    live = world.live_queries(window, "rolling")
    chosen = _draw(live[world.news(window)[live]], world.test_queries, world.generator("rolling", window))
    return _tests(world, chosen, window, engine)


def served(world: EmojiWorld, queries: Array, window: int, engine: Engine) -> pa.Table:
    """Return the judgments (JUDGMENTS, sorted) of every document that the first stage serves in a window.

    ``queries`` are rows of the truth. It is what the champion would rank: ``world.candidates`` documents a query.
    """
    published = np.asarray(_catalogue(world, window)["published_at"]).astype("datetime64[us]")
    locales, since = np.asarray(_catalogue(world, window)["locale"]), world.windows[window][0]

    def search(asked: list[str], names: list[str], locale: str) -> Array:
        return engine.with_fresh(asked, names, is_fresh(published[locales == locale], since), world.candidates)

    place = _searched(world, queries, window, engine, search)
    emoji = np.flatnonzero(world.released(world.truth.years, window))[place.ravel()]
    return _judgments(world, np.repeat(queries, place.shape[1]), emoji, window, "human")


def judged(world: EmojiWorld, queries: Array, window: int, pairs: int, source: str, engine: Engine) -> pa.Table:
    """Return judged pools (JUDGMENTS, sorted) for rows of the truth, over the emoji released by ``window``.

    A pool is made as search teams make theirs, from what the engines show: known relevant documents up to a cap,
    those released in the window first; the first stage's nearest; lookalikes, whose name shares letters with the
    query; and random ones up to ``pairs``.
    """
    truth = world.truth
    catalogue = np.flatnonzero(world.released(truth.years, window))
    new = ~world.released(truth.years[catalogue], window - 1)

    def search(asked: list[str], names: list[str], _: str) -> Array:
        of_engine = engine.nearest(asked, names, round(NEAREST * pairs))
        return np.hstack([of_engine, LETTERS.nearest(asked, names, round(LOOKALIKES * pairs))])

    shown = _searched(world, queries, window, engine, search)
    generator = world.generator("pools", source, window)
    rows, emoji = [], []
    for query, known in zip(queries, shown, strict=True):
        grades = truth.grades[query, catalogue]
        order = generator.permutation(len(catalogue))
        relevant = sorted(order[grades[order] >= 2], key=lambda i: not new[i])[: round(RELEVANT * pairs)]
        pool = np.array(list(dict.fromkeys([*relevant, *known, *order]))[:pairs])
        rows.append(np.full(len(pool), query))
        emoji.append(catalogue[pool])
    return _judgments(world, np.concatenate(rows), np.concatenate(emoji), window, source)


def _tests(world: EmojiWorld, queries: Array, window: int, engine: Engine) -> Tests:
    return {
        "served": served(world, queries, window, engine),
        "pool": judged(world, queries, window, world.test_pairs, "human", engine),
    }


def _write_tests(tests: Tests, path: Path) -> None:
    for documents, table in tests.items():
        contracts.write(table, path / documents, contracts.JUDGMENTS)


def _judgments(world: EmojiWorld, row: Array, column: Array, window: int, source: str) -> pa.Table:
    """Return the true grades of pairs (rows and columns of the truth) as JUDGMENTS, sorted."""
    truth, count = world.truth, len(row)
    locales = truth.locales[row]
    table = pa.table(
        {
            "query": truth.queries[row].tolist(),
            "locale": locales.tolist(),
            "doc_id": list(map(document_id, locales, truth.hexcodes[column])),
            "grade": truth.grades[row, column],
            "rationale": pa.nulls(count, pa.string()),
            "source": [source] * count,
            "cycle": np.full(count, window, np.int32),
            "panel_version": pa.nulls(count, pa.string()),
            "agreement": pa.nulls(count, pa.float64()),
        }
    )
    return table.sort_by([("locale", "ascending"), ("query", "ascending"), ("doc_id", "ascending")])


def _draw(queries: Array, count: int, generator: np.random.Generator) -> Array:
    return np.sort(generator.permutation(queries)[:count])


def _catalogue(world: EmojiWorld, window: int) -> pa.Table:
    """Return the catalogue of a window; as truth.hexcodes, that of a locale is sorted by hexcode."""
    return world.documents(window).sort_by("doc_id")


def _searched(
    world: EmojiWorld,
    queries: Array,
    window: int,
    engine: Engine,
    search: Callable[[list[str], list[str], str], Array],
) -> Array:
    """Return what ``search`` (queries, documents' texts, their locale) finds: int [n, found], places in the catalogue.

    It is asked locale by locale, after ``engine`` was told of all.
    """
    from serm.relevance import document_text  # torch: not for those who only want the world

    truth, catalogue = world.truth, _catalogue(world, window)
    locales = np.asarray(catalogue["locale"])
    texts = np.array(list(map(document_text, catalogue["title"].to_pylist(), catalogue["body"].to_pylist())), object)
    found: dict[int, Array] = {}
    engine.embed_ahead(truth.queries[queries].tolist(), texts[np.isin(locales, truth.locales[queries])].tolist())
    for locale in np.unique(truth.locales[queries]).tolist():
        here = np.flatnonzero(truth.locales[queries] == locale)
        asked = truth.queries[queries[here]].tolist()
        found |= zip(here.tolist(), search(asked, texts[locales == locale].tolist(), locale), strict=True)
    return np.stack([found[row] for row in range(len(queries))])


class Letters:
    """A first stage by spelling: the cosine of 2- and 3-grams of letters."""

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=2**16, alternate_sign=False)

    def embed_ahead(self, queries: Sequence[str], passages: Sequence[str]) -> None:
        """Do nothing: letters are counted as they come."""

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> Array:
        """Return ``depth`` passages for each query: int [queries, depth], nearest first."""
        return nearest(self._cosine(queries, passages), depth)

    def with_fresh(self, queries: Sequence[str], passages: Sequence[str], fresh: Array, depth: int) -> Array:
        """Return ``nearest``, the last place given to the nearest of ``fresh``, as ``traffic.with_fresh`` says."""
        return with_fresh(self._cosine(queries, passages), fresh, depth)

    def _cosine(self, queries: Sequence[str], passages: Sequence[str]) -> Array:
        alike: Array = (self._vectorizer.transform(queries) @ self._vectorizer.transform(passages).T).toarray()
        return alike


LETTERS = Letters()
