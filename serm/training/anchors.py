"""Anchors: pairs outside the lists that are judged, on which a challenger is to say what its champion says.

Judged pairs are what users were shown and what miners suspect. What a model learns of them alone moves it everywhere,
on documents too that no judgment speaks of: most of all on look-alikes, which another first stage will show one day.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import ibis
import numpy as np
from ibis.backends import BaseBackend

from serm import contracts
from serm.pairs.text import fold
from serm.relevance import Model, document_text
from serm.settings import TrainingSettings
from serm.training.examples import Examples, unlabelled

MOST_A_PAIR = 4
"""Anchors a judged pair, at most: where few are judged, more would drown what they say."""
DOCUMENTS_AN_ANCHOR = 2
"""Documents that the near ones are looked for among, for each anchor; the encoder embeds each of them."""


def draw_anchors(
    engine: BaseBackend,
    champion: Model,
    examples: Examples,
    known: Examples,
    documents: Path,
    settings: TrainingSettings,
) -> Examples:
    """Return at most ``anchors`` pairs of the examples' queries with documents that nobody judged for them.

    For one half the nearest of the locale's documents by the champion's encoder, for the other random ones. Queries are
    drawn at random, each as often as the others; all follows from the seed. They have no grade yet (0).

    Args:
        engine: samples the documents, by a hash of ``doc_id``, so that no whole catalogue is read or embedded.
        champion: its encoder says what is near.
        examples: what is trained on.
        known: all judged pairs; of a query in any spelling none is taken.
        documents: the DOCUMENTS dataset.
        settings: ``anchors``, ``anchor_weight`` and ``seed`` are read.
    """
    count = min(settings.anchors, MOST_A_PAIR * len(examples)) if settings.anchor_weight else 0
    queries = sorted(set(zip(examples.locales, examples.queries, strict=True)))
    if not count or not queries:
        return examples[:0]
    generator = np.random.default_rng(settings.seed)
    turns = [queries[number] for number in np.resize(generator.permutation(len(queries)), count)]
    near, other = Counter(turns[: count // 2]), Counter(turns[count // 2 :])
    asked = sorted(set(turns))
    catalogue = _sample(engine, documents, sorted({locale for locale, _ in asked}), count, settings.seed)
    vectors = champion.encoder.embed([query for _, query in asked], "query")
    of_documents = champion.encoder.embed([text for texts in catalogue.values() for text in texts], "passage")
    first = dict(zip(catalogue, itertools.accumulate(map(len, catalogue.values()), initial=0), strict=False))
    taken = defaultdict(set)
    for one, text in zip(known.asked(), known.documents, strict=True):
        taken[one].add(text)
    found = []
    for query, vector in zip(asked, vectors, strict=True):
        locale, text = query
        texts = catalogue[locale]
        judged = taken[locale, fold(text)]
        order = np.argsort(-(of_documents[first[locale] : first[locale] + len(texts)] @ vector), kind="stable")
        free = order[[texts[row] not in judged for row in order]]
        ends = near[query]
        chosen = [*free[:ends], *generator.permutation(free[ends:])[: other[query]]]
        found += [(text, texts[row], locale) for row in chosen]
    of_query, of_document, of_locale = np.array(found, object).reshape(-1, 3).T
    anchors = unlabelled(of_query, of_document, of_locale, "anchor", "anchor")
    return replace(anchors, weights=anchors.weights * settings.anchor_weight)


def _sample(engine: BaseBackend, documents: Path, locales: list[str], count: int, seed: int) -> dict[str, list[str]]:
    """Return distinct texts of documents of each of the ``locales``, as many of each where it has them."""
    catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
    catalogue = catalogue.filter([catalogue[name].notnull() for name in ("doc_id", "title", "body")])
    drawn = (f"{seed}\x1f" + catalogue.doc_id).hexdigest("md5")
    catalogue = catalogue.filter(catalogue.locale.isin(locales)).mutate(drawn=drawn)
    turn = ibis.row_number().over(group_by="locale", order_by=["drawn", "doc_id"])
    most = math.ceil(DOCUMENTS_AN_ANCHOR * count / len(locales))
    sampled = catalogue.mutate(turn=turn).filter(lambda rows: rows.turn < most).order_by("locale", "turn")
    rows = engine.to_pyarrow(sampled.select("locale", "title", "body")).to_pylist()
    texts: dict[str, dict[str, None]] = {locale: {} for locale in locales}
    for row in rows:
        texts[row["locale"]][document_text(row["title"], row["body"])] = None
    return {locale: list(of) for locale, of in texts.items()}
