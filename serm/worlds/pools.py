"""The judged pools of the emoji world, and the parts of a workspace that no champion has a say in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.feature_extraction.text import HashingVectorizer

from serm import contracts
from serm.worlds.emoji import EmojiWorld, document_id, released

Array = npt.NDArray[Any]

#: Shares of a pool: known relevant documents (grade 2 and 3) at most this many, then what the engines show for the
#: query; documents drawn at random fill the rest, so that a low cosine does not by itself mean "put in by hand".
RELEVANT, NEAREST, LOOKALIKES = 0.3, 0.4, 0.1


class Engine(Protocol):
    """A first stage of retrieval."""

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> Array:
        """Return ``depth`` passages for each query: int [queries, depth], nearest first."""


def prepare(workspace: Path, window: int, world: EmojiWorld, engine: Engine) -> None:
    """Write what a workspace may know at ``window`` (0 to 3): ``documents/`` and ``tests/rolling``.

    ``engine`` is the first stage whose results the pools are judged from.

    Window 0 is the founding: it has no rolling test, and writes ``knowledge/``, ``tests/frozen`` and the seed
    judgments in ``state/judgments`` instead, which never change again.
    """
    contracts.write(world.documents(window), workspace / "documents", contracts.DOCUMENTS)
    if window:
        contracts.write(rolling(world, window, engine), workspace / "tests" / "rolling", contracts.JUDGMENTS)
        return
    contracts.write(world.knowledge(), workspace / "knowledge", contracts.KNOWLEDGE)
    contracts.write(seed(world, engine), workspace / "state" / "judgments", contracts.JUDGMENTS)
    contracts.write(frozen(world, engine), workspace / "tests" / "frozen", contracts.JUDGMENTS)


def seed(world: EmojiWorld, engine: Engine) -> pa.Table:
    """Return the seed judgments (JUDGMENTS): train queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "train"), world.seed_queries, world.generator("seed"))
    return judged(world, chosen, 0, world.seed_pairs, "seed", engine)


def frozen(world: EmojiWorld, engine: Engine) -> pa.Table:
    """Return the frozen test set (JUDGMENTS): frozen queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "frozen"), world.test_queries, world.generator("frozen"))
    return judged(world, chosen, 0, world.test_pairs, "human", engine)


def rolling(world: EmojiWorld, window: int, engine: Engine) -> pa.Table:
    """Return the rolling test set of a window (JUDGMENTS): rolling queries that the window made new.

    Their locale launched in it, or an emoji released in it answers them; such emoji come first in the pool.
    """
    live = world.live_queries(window, "rolling")
    chosen = _draw(live[world.news(window)[live]], world.test_queries, world.generator("rolling", window))
    return judged(world, chosen, window, world.test_pairs, "human", engine)


def judged(world: EmojiWorld, queries: Array, window: int, pairs: int, source: str, engine: Engine) -> pa.Table:
    """Return judged pools (JUDGMENTS, sorted) for rows of the truth, over the emoji released by ``window``.

    A pool is made as search teams make theirs, from what the engines show: known relevant documents up to a cap,
    those released in the window first; the first stage's nearest; lookalikes, whose name shares letters with the
    query; and random ones up to ``pairs``.
    """
    truth = world.truth
    catalogue = np.flatnonzero(released(truth.years, window))
    new = ~released(truth.years[catalogue], window - 1)
    shown = _shown(world, queries, window, pairs, engine)
    generator = world.generator("pools", source, window)
    rows, emoji = [], []
    for query, known in zip(queries, shown, strict=True):
        grades = truth.grades[query, catalogue]
        order = generator.permutation(len(catalogue))
        relevant = sorted(order[grades[order] >= 2], key=lambda i: not new[i])[: round(RELEVANT * pairs)]
        pool = np.array(list(dict.fromkeys([*relevant, *known, *order]))[:pairs])
        rows.append(np.full(len(pool), query))
        emoji.append(catalogue[pool])
    row, column = np.concatenate(rows), np.concatenate(emoji)
    count = len(row)
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


def _shown(world: EmojiWorld, queries: Array, window: int, pairs: int, engine: Engine) -> Array:
    """Return what the first stage and a search by letters show: int [n, shown], places in the window's catalogue."""
    from serm.relevance import document_text  # torch: not for those who only want the world

    truth = world.truth
    # As truth.hexcodes, the catalogue of a locale is sorted by hexcode.
    catalogue = world.documents(window).sort_by("doc_id")
    locales = np.asarray(catalogue["locale"])
    texts = np.array(list(map(document_text, catalogue["title"].to_pylist(), catalogue["body"].to_pylist())), object)
    nearest, alike = round(NEAREST * pairs), round(LOOKALIKES * pairs)
    shown = np.zeros((len(queries), nearest + alike), np.int64)
    for locale in np.unique(truth.locales[queries]):
        here = np.flatnonzero(truth.locales[queries] == locale)
        asked, names = truth.queries[queries[here]].tolist(), texts[locales == locale].tolist()
        shown[here, :nearest] = engine.nearest(asked, names, nearest)
        shown[here, nearest:] = LETTERS.nearest(asked, names, alike)
    return shown


class Letters:
    """A first stage by spelling: the cosine of 2- and 3-grams of letters."""

    _vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=2**16, alternate_sign=False)

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> Array:
        """Return ``depth`` passages for each query: int [queries, depth], nearest first."""
        alike = (self._vectorizer.transform(queries) @ self._vectorizer.transform(passages).T).toarray()
        return np.argsort(-alike, axis=1, kind="stable")[:, :depth]


LETTERS = Letters()
