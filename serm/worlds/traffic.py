"""The emoji world's simulated traffic: what people ask in a window, what the champion shows, and the log of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.step import Figures
from serm.worlds.emoji import EmojiWorld, Truth
from serm.worlds.simulator import Ranking, Users, simulate, spoil

if TYPE_CHECKING:
    from serm.relevance import Encoder, Model
    from serm.relevance.interface import Kind

Array = npt.NDArray[Any]


class FirstStage:
    """The engine's first stage: the nearest documents by the encoder's cosine. Each text is embedded once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[Kind, dict[str, Array]] = {"query": {}, "passage": {}}

    def vectors(self, texts: Sequence[str], kind: Kind) -> Array:
        """Return unit vectors of ``texts``: float32 [n, dim]."""
        known = self._known[kind]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, self._encoder.embed(new, kind), strict=True))
        return np.stack([known[text] for text in texts])

    def embed_ahead(self, queries: Sequence[str], passages: Sequence[str]) -> None:
        """Embed at once what is asked for next locale by locale: few texts take as long as a batch of many."""
        self.vectors(queries, "query")
        self.vectors(passages, "passage")

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> Array:
        """Return ``depth`` documents for each query: int [queries, depth], nearest first."""
        return nearest(self._cosine(queries, passages), depth)

    def cosines(self, queries: Sequence[str], passages: Sequence[str]) -> Array:
        """Return the cosine of each query with its passage: float [n]."""
        return np.asarray((self.vectors(queries, "query") * self.vectors(passages, "passage")).sum(axis=1))

    def with_fresh(self, queries: Sequence[str], passages: Sequence[str], fresh: Array, depth: int) -> Array:
        """Return ``nearest``, the last place given to the nearest document of ``fresh``, as ``with_fresh`` says."""
        return with_fresh(self._cosine(queries, passages), fresh, depth)

    def _cosine(self, queries: Sequence[str], passages: Sequence[str]) -> Array:
        return np.asarray(self.vectors(queries, "query") @ self.vectors(passages, "passage").T)


def nearest(likeness: Array, depth: int) -> Array:
    """Return the ``depth`` places of each row of ``likeness`` (float [queries, documents]), the most alike first."""
    return np.argsort(-likeness, axis=1, kind="stable")[:, :depth]


def with_fresh(likeness: Array, fresh: Array, depth: int) -> Array:
    """Return ``nearest``, the last place given to the nearest document of ``fresh`` (bool [documents]).

    It stays as it is where such a document is among the others or nothing is fresh: an engine that never shows
    what is new cannot learn about it.
    """
    order = nearest(likeness, depth)
    if fresh.any():
        newest = np.argmax(np.where(fresh, likeness, -np.inf), axis=1)
        missing = ~(order == newest[:, None]).any(axis=1)
        order[missing, -1] = newest[missing]
    return order


def is_fresh(published: Array, since: datetime) -> Array:
    """Return which documents are new to the window that starts ``since``: bool, of their dates (datetime64 [us])."""
    return published >= np.datetime64(since.replace(tzinfo=None), "us")


def rank_queries(
    model: Model,
    stage: FirstStage,
    queries: Sequence[str],
    locales: Sequence[str],
    documents: pa.Table,
    depth: int,
    since: datetime,
) -> Ranking:
    """Return what the champion would show for each query: ``depth`` documents (DOCUMENTS) of its locale, ranked.

    Documents are new ``since`` the window's start.
    """
    place, texts = candidates(stage, queries, locales, documents, depth, since)
    published = np.asarray(documents["published_at"]).astype("datetime64[us]")
    pairs = model.score([query for query in queries for _ in range(depth)], texts[place.ravel()].tolist())
    scores = pairs.expected.reshape(place.shape)
    best = np.argsort(-scores, axis=1, kind="stable")
    place = np.take_along_axis(place, best, axis=1)
    return Ranking(
        queries=np.asarray(queries),
        locales=np.asarray(locales),
        doc_ids=np.asarray(documents["doc_id"])[place],
        published=published[place],
        scores=np.take_along_axis(scores, best, axis=1),
        version=model.version,
    )


def candidates(
    stage: FirstStage, queries: Sequence[str], locales: Sequence[str], documents: pa.Table, depth: int, since: datetime
) -> tuple[Array, Array]:
    """Return the first stage's ``depth`` documents of each query, rows of ``documents`` [Q, depth], and all texts."""
    from serm.relevance import document_text

    place = np.zeros((len(queries), depth), np.int64)
    texts = np.array(list(map(document_text, documents["title"].to_pylist(), documents["body"].to_pylist())), object)
    fresh = is_fresh(np.asarray(documents["published_at"]).astype("datetime64[us]"), since)
    doc_locales, of = np.asarray(documents["locale"]), np.asarray(locales)
    stage.embed_ahead(queries, texts[np.isin(doc_locales, of)].tolist())
    for locale in np.unique(of):
        asked, here = np.flatnonzero(of == locale), np.flatnonzero(doc_locales == locale)
        served = stage.with_fresh([queries[int(i)] for i in asked], texts[here].tolist(), fresh[here], depth)
        place[asked] = here[served]
    return place, texts


def popularity(world: EmojiWorld, window: int) -> tuple[Array, Array]:
    """Return the queries of a window (rows of the truth, most popular first) and their shares (Zipf).

    Every query has an interest, drawn once; in each window some are drawn anew, and what is new rises.
    """
    count = len(world.truth.queries)
    interest = world.generator("interest", 0).standard_normal(count)
    for later in range(1, window + 1):
        generator = world.generator("interest", later)
        turned = generator.random(count) < world.turnover
        interest = np.where(turned, generator.standard_normal(count), interest)
    live = world.live_queries(window, "train")
    appeal = interest[live] + world.rise * world.news(window)[live]
    queries = live[np.argsort(-appeal, kind="stable")][: world.window_queries]
    shares = np.arange(1, len(queries) + 1, dtype=float) ** -world.zipf
    return queries, shares / shares.sum()


def related(truth: Truth, queries: Array) -> Array:
    """Return for each of the ``queries`` the one that its user tries next: int [n], an index among them, or -1.

    It is the query of the same locale whose graded documents are most alike (cosine of the grades).
    """
    grades = truth.grades[queries].astype(np.float32)
    grades /= np.linalg.norm(grades, axis=1, keepdims=True)
    alike = grades @ grades.T
    locales = truth.locales[queries]
    alike[locales[:, None] != locales] = 0
    np.fill_diagonal(alike, 0)
    return np.where(alike.max(axis=1) > 0, alike.argmax(axis=1), -1)


def simulate_window(
    workspace: Path,
    window: int,
    world: EmojiWorld,
    model: Model,
    stage: FirstStage,
    users: Users | None = None,
) -> Figures:
    """Write the simulated log of a window: ``log/window=K``, or for window 0 the clean ``state/reference``.

    The catalogue is the workspace's ``documents/``, and ``model`` is the champion that ranks it.
    """
    documents = contracts.read(workspace / "documents", contracts.DOCUMENTS)
    log, figures = simulated(documents, window, world, model, stage, users)
    if window == 0:
        contracts.write(log, workspace / "state" / "reference", contracts.IMPRESSIONS)
        return figures
    log, spoilt = spoil(log, world.dirt, world.generator("dirt", window))
    contracts.write(log, workspace / "log" / f"window={window}", contracts.IMPRESSIONS)
    return figures | {f"spoilt: {kind}": count for kind, count in spoilt.items()}


def simulated(
    documents: pa.Table,
    window: int,
    world: EmojiWorld,
    model: Model,
    stage: FirstStage,
    users: Users | None = None,
) -> tuple[pa.Table, Figures]:
    """Return the clean log of a window (IMPRESSIONS) and its figures: ``model`` ranks ``documents`` (DOCUMENTS)."""
    users = users or Users()
    queries, shares = popularity(world, window)
    truth = world.truth
    ranking = rank_queries(
        model,
        stage,
        truth.queries[queries].tolist(),
        truth.locales[queries].tolist(),
        documents,
        world.candidates,
        world.windows[window][0],
    )
    depth = world.candidates
    sessions = world.sessions if window else min(world.sessions, world.reference_sessions)
    grades = truth.lookup(
        pa.array(np.repeat(ranking.queries, depth)),
        pa.array(np.repeat(ranking.locales, depth)),
        pa.array(ranking.doc_ids.ravel()),
    ).reshape(ranking.doc_ids.shape)
    log = simulate(
        ranking,
        grades,
        shares,
        related(truth, queries),
        window=world.windows[window],
        name=f"w{window}",
        sessions=sessions,
        positions=world.positions,
        exploration=world.exploration,
        users=users,
        generator=world.generator("users", window),
    )
    figures: Figures = {
        "impressions": len(log),
        "sessions": sessions,
        "queries": len(queries),
        "new_queries": int(world.news(window)[queries].sum()),
        "click_rate": round(pc.mean(log["clicked"]).as_py(), 4),
    }
    return log, figures
