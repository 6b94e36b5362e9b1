"""The judged pools of the emoji world, and the parts of a workspace that do not depend on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.feature_extraction.text import HashingVectorizer

from serm import contracts
from serm.worlds.emoji import EmojiWorld, document_id, released

Array = npt.NDArray[Any]

#: Largest shares of a pool that documents of grade 2 and 3, siblings, and lookalikes of grade 0 may take;
#: documents of grade 0 drawn at random fill the rest.
RELEVANT, SIBLINGS, LOOKALIKES = 0.4, 0.25, 0.2


def prepare(workspace: Path, window: int, world: EmojiWorld) -> None:
    """Write what a workspace may know at ``window`` (0 to 3): ``documents/`` and ``tests/rolling``.

    Window 0 is the founding: it has no rolling test, and writes ``knowledge/``, ``tests/frozen`` and the seed
    judgments in ``state/judgments`` instead, which never change again.
    """
    contracts.write(world.documents(window), workspace / "documents", contracts.DOCUMENTS)
    if window:
        contracts.write(rolling(world, window), workspace / "tests" / "rolling", contracts.JUDGMENTS)
        return
    contracts.write(world.knowledge(), workspace / "knowledge", contracts.KNOWLEDGE)
    contracts.write(seed(world), workspace / "state" / "judgments", contracts.JUDGMENTS)
    contracts.write(frozen(world), workspace / "tests" / "frozen", contracts.JUDGMENTS)


def seed(world: EmojiWorld) -> pa.Table:
    """Return the seed judgments (JUDGMENTS): train queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "train"), world.seed_queries, world.generator("seed"))
    return judged(world, chosen, 0, world.seed_pairs, "seed")


def frozen(world: EmojiWorld) -> pa.Table:
    """Return the frozen test set (JUDGMENTS): frozen queries of the seed locales over emoji up to 2016."""
    chosen = _draw(world.live_queries(0, "frozen"), world.test_queries, world.generator("frozen"))
    return judged(world, chosen, 0, world.test_pairs, "human")


def rolling(world: EmojiWorld, window: int) -> pa.Table:
    """Return the rolling test set of a window (JUDGMENTS): rolling queries that the window made new.

    Their locale launched in it, or an emoji released in it answers them; such emoji come first in the pool.
    """
    live = world.live_queries(window, "rolling")
    chosen = _draw(live[world.news(window)[live]], world.test_queries, world.generator("rolling", window))
    return judged(world, chosen, window, world.test_pairs, "human")


def judged(world: EmojiWorld, queries: Array, window: int, pairs: int, source: str) -> pa.Table:
    """Return judged pools (JUDGMENTS, sorted) for rows of the truth, over the emoji released by ``window``.

    Each pool has up to ``pairs`` documents of several grades: all of grade 2 and 3 up to a cap, those released
    in the window first; siblings; lookalikes of grade 0, whose name shares letters with the query; random ones.
    """
    truth = world.truth
    catalogue = np.flatnonzero(released(truth.years, window))
    new = ~released(truth.years[catalogue], window - 1)
    alike = _alikeness(world, queries, window)
    generator = world.generator("pools", source, window)
    rows, emoji = [], []
    for query, closeness in zip(queries, alike, strict=True):
        grades = truth.grades[query, catalogue]
        order = generator.permutation(len(catalogue))
        relevant = sorted(order[grades[order] >= 2], key=lambda i: not new[i])[: round(RELEVANT * pairs)]
        siblings = order[grades[order] == 1][: round(SIBLINGS * pairs)]
        bad = order[grades[order] == 0]
        close = bad[np.argsort(-closeness[bad], kind="stable")][: round(LOOKALIKES * pairs)]
        fill = bad[~np.isin(bad, close)][: pairs - len(relevant) - len(siblings) - len(close)]
        pool = np.concatenate([relevant, siblings, close, fill]).astype(int)
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


def _alikeness(world: EmojiWorld, queries: Array, window: int) -> Array:
    """Return how alike each query and each name are in letters: cosine of 2- and 3-grams, float [n, emoji]."""
    truth = world.truth
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=2**16, alternate_sign=False)
    documents = world.documents(window)
    by_locale = documents.to_pandas().sort_values("doc_id").groupby("locale")["title"]
    alike = np.zeros((len(queries), int(released(truth.years, window).sum())), np.float32)
    for locale in np.unique(truth.locales[queries]):
        here = np.flatnonzero(truth.locales[queries] == locale)
        names = vectorizer.transform(by_locale.get_group(locale))
        alike[here] = (vectorizer.transform(truth.queries[queries[here]]) @ names.T).toarray()
    return alike
