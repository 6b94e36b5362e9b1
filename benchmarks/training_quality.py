"""What each way to score is worth: NDCG@10 on held-out queries of the emoji world and of ESCI.

Emoji: a world a seed, its seed judgments to learn from; tested on frozen queries and on the rolling queries of the last
window, over all pairs and over those that share no token, by language family. Pools are drawn with the first stage by
letters, so that no system that is compared here has a say in them. ESCI: folds over its queries, a fold held out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from serm.contracts import Grade
from serm.evaluation.measures import ndcg
from serm.evaluation.overlap import share_token
from serm.evaluation.significance import bootstrap_interval
from serm.pairs.bm25 import BM25
from serm.relevance import Encoder, RelevanceModel, document_text
from serm.relevance.model import EncodedPairs
from serm.settings import TrainingSettings
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.fit import fine_tune, reproducible
from serm.training.losses import Targets
from serm.worlds import pools
from serm.worlds.emoji import FAMILIES, EmojiWorld

CUTOFF, LAYERS, STUDENT_LAYERS = 10, 4, 1
ESCI_FOLDS, ESCI_PAIRS = 3, 12
"""Folds, and at most so many judged products a query."""
GRADES = {"100.000": 3, "10.000": 2, "1.000": 1, "0.000": 0}
SYSTEMS = ("cosine", "cosine + BM25", "cross-encoder", "residual cross-encoder", "distilled student")


@dataclass(frozen=True)
class Judged:
    """Judged pairs, a row each."""

    queries: list[str]
    documents: list[str]
    locales: list[str]
    grades: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, rows: np.ndarray) -> Judged:
        picked = ([column[row] for row in rows] for column in (self.queries, self.documents, self.locales))
        return Judged(*picked, self.grades[rows])

    def __add__(self, other: Judged) -> Judged:
        lists = (getattr(self, name) + getattr(other, name) for name in ("queries", "documents", "locales"))
        return Judged(*lists, np.concatenate([self.grades, other.grades]))

    def groups(self) -> np.ndarray:
        """Number the queries (a text in a locale) from 0; return each row's number."""
        numbers: dict[tuple[str, str], int] = {}
        keys = zip(self.locales, self.queries, strict=True)
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def emoji(encoder: Encoder, seed: int, queries: int, tests: int, options: TrainingSettings) -> dict[str, Any]:
    """Return NDCG@10 of each system in the world of ``seed``: view -> slice -> system, and the number of queries."""
    world = EmojiWorld(seed=seed, seed_queries=3 * queries, test_queries=tests)
    texts = {row["doc_id"]: document_text(row["title"], row["body"]) for row in world.documents(3).to_pylist()}
    seeds = _judged(pools.seed(world, pools.LETTERS), texts)
    groups = seeds.groups()
    # One third of the queries is labelled; the rest are the unlabelled pairs that a student learns from.
    labelled = np.random.default_rng(seed).permutation(groups.max() + 1)[:queries]
    learned = np.isin(groups, labelled)
    test = [
        row
        for tests in (pools.frozen(world, pools.LETTERS), pools.rolling(world, 3, pools.LETTERS))
        for row in _judged(tests["pool"], texts)
    ]
    scores = score_all(
        encoder, seeds[np.flatnonzero(learned)], seeds[np.flatnonzero(~learned)], test, options, bm25(test)
    )
    family = {locale: name for name, locales in FAMILIES.items() for locale in locales}
    shared = zip(test.queries, test.documents, test.locales, strict=True)
    plain = np.array([not share_token(*row) for row in shared])
    views = {"all pairs": np.ones(len(test), bool), "no shared token": plain}
    slices = {"all": np.ones(len(test), bool)} | {
        name: np.array([family[locale] == name for locale in test.locales]) for name in FAMILIES
    }
    return {
        view: {name: measure(test, scores, rows & chosen) for name, chosen in slices.items()}
        for view, rows in views.items()
    }


def esci(encoder: Encoder, data: Path, seed: int, options: TrainingSettings) -> dict[str, Any]:
    """Return NDCG@10 of each system on ESCI's queries, each scored by the models that did not see its fold.

    ``above_cosine`` is each system's mean difference from the cosine with its 95 % bootstrap interval over queries.
    """
    judged = _esci(data, seed)
    fold = np.random.default_rng(seed).permutation(judged.groups().max() + 1)[judged.groups()] % ESCI_FOLDS
    lexical = bm25(judged)
    scores = {name: np.zeros(len(judged)) for name in SYSTEMS}
    for number in range(ESCI_FOLDS):
        out, kept = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        # There are no pairs without a label here: the student learns from the labelled ones, without their labels.
        found = score_all(encoder, judged[kept], judged[kept], judged[out], options, lexical[out])
        for name, values in found.items():
            scores[name][out] = values
    values = by_query(judged, scores, np.ones(len(judged), bool))
    differences = np.stack([values[name] - values["cosine"] for name in SYSTEMS[1:]], 1)
    ends = (differences.mean(0), *bootstrap_interval(differences, 2000, 0.95, seed=0))
    return {
        **means(values),
        "folds": ESCI_FOLDS,
        "pairs": len(judged),
        "above_cosine": {name: [round(float(end[n]), 4) for end in ends] for n, name in enumerate(SYSTEMS[1:])},
    }


def score_all(
    encoder: Encoder, train: Judged, unlabelled: Judged, test: Judged, options: TrainingSettings, lexical: np.ndarray
) -> dict[str, np.ndarray]:
    """Train what is to be trained on ``train``, and return each system's scores of ``test``."""
    model = RelevanceModel.from_encoder(encoder, LAYERS)
    both = train + unlabelled + test
    pairs = model.pairs(both.queries, both.documents)
    places = np.split(np.arange(len(both)), [len(train), len(train) + len(unlabelled)])
    seen, asked, held = (subset(pairs, rows) for rows in places)
    cosine = held.cosines.numpy().astype(float)
    scores = {"cosine": cosine, "cosine + BM25": standard(cosine, test) + standard(lexical, test)}

    fit(model, seen, train, options)
    scores["residual cross-encoder"] = model.forward(held).numpy().astype(float)
    with torch.inference_mode():
        taught = model.residual.ordinal.distribution(model.forward(asked)).numpy()
    scratch = RelevanceModel.from_encoder(encoder, LAYERS)
    fit(scratch, without_cosine(seen), train, options)
    scores["cross-encoder"] = scratch.forward(without_cosine(held)).numpy().astype(float)
    del pairs, seen, asked, held

    student = RelevanceModel.from_encoder(encoder, STUDENT_LAYERS)
    student.residual.load_state_dict(model.residual.state_dict(), strict=False)
    student.residual.layers.load_state_dict(model.residual.layers[-STUDENT_LAYERS:].state_dict())
    pairs = student.pairs(both.queries, both.documents)
    _, asked, held = (subset(pairs, rows) for rows in places)
    targets = replace(as_targets(unlabelled), distributions=torch.from_numpy(taught).float())
    with reproducible(options):
        fine_tune(CrossEncoderTask(student, asked, targets, options), options)
    scores["distilled student"] = student.forward(held).numpy().astype(float)
    return scores


def fit(model: RelevanceModel, pairs: EncodedPairs, judged: Judged, options: TrainingSettings) -> None:
    """Train ``model`` as SERM's bootstrap does."""
    with reproducible(options):
        task = CrossEncoderTask(model, pairs, as_targets(judged), options)
        task.fit_cosine()
        fine_tune(task, options)


def as_targets(judged: Judged) -> Targets:
    """Return what ``judged`` are to be scored as."""
    groups = torch.from_numpy(judged.groups())
    return Targets(torch.eye(len(Grade))[torch.from_numpy(judged.grades)], torch.ones(len(judged)), groups)


def subset(pairs: EncodedPairs, rows: np.ndarray) -> EncodedPairs:
    """Return the ``rows`` of ``pairs``; what was encoded is shared."""
    chosen = {"query_rows": pairs.query_rows[rows], "document_rows": pairs.document_rows[rows]}
    return replace(pairs, cosines=pairs.cosines[rows], **chosen)


def without_cosine(pairs: EncodedPairs) -> EncodedPairs:
    """The residual is off: the model has nothing but what the joint layers learn."""
    return replace(pairs, cosines=torch.zeros_like(pairs.cosines))


def standard(values: np.ndarray, judged: Judged) -> np.ndarray:
    """Return ``values`` with mean 0 and deviation 1 in each query."""
    groups = judged.groups()
    out = np.zeros(len(values))
    for number in range(groups.max() + 1):
        rows = groups == number
        out[rows] = (values[rows] - values[rows].mean()) / max(values[rows].std(), 1e-9)
    return out


def bm25(judged: Judged) -> np.ndarray:
    """Return BM25 of each pair over words and letters, the documents of its locale being the collection."""
    scores, locales = np.zeros(len(judged)), np.array(judged.locales)
    for locale in np.unique(locales):
        rows = np.flatnonzero(locales == locale)
        documents = list(dict.fromkeys(judged.documents[row] for row in rows))
        place = {text: number for number, text in enumerate(documents)}
        index = BM25(documents)
        for query in dict.fromkeys(judged.queries[row] for row in rows):
            asked = index.scores(query)
            for row in rows:
                if judged.queries[row] == query:
                    scores[row] = asked[place[judged.documents[row]]]
    return scores


def measure(judged: Judged, scores: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Return how many queries tell systems apart in ``rows``, and the mean NDCG@10 of each system over them."""
    return means(by_query(judged, scores, rows))


def means(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the number of queries and each system's mean."""
    queries = len(values["cosine"])
    return {"queries": queries} | {name: round(float(one.mean()), 4) for name, one in values.items() if queries}


def by_query(judged: Judged, scores: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return each system's NDCG@10 of the queries that have pairs of different grades in ``rows``."""
    groups = judged.groups()
    told = [
        number for number in np.unique(groups[rows]) if len(set(judged.grades[rows & (groups == number)].tolist())) > 1
    ]
    kept = rows & np.isin(groups, told)
    queries = np.unique(groups[kept], return_inverse=True)[1]
    return {
        name: ndcg(queries, judged.grades[kept], scores[name][kept], (CUTOFF,), seed=0)[:, 0] if told else np.zeros(0)
        for name in SYSTEMS
    }


def _judged(table: pa.Table, texts: dict[str, str]) -> Judged:
    documents = [texts[doc_id] for doc_id in table["doc_id"].to_pylist()]
    grades = table["grade"].to_numpy().astype(np.int64)
    return Judged(table["query"].to_pylist(), documents, table["locale"].to_pylist(), grades)


def _esci(data: Path, seed: int) -> Judged:
    with gzip.open(data / "products.jsonl.gz", "rt", encoding="utf-8") as lines:
        products = {one["_id"]: document_text(one["title"], one.get("brand") or "") for one in map(json.loads, lines)}
    generator = np.random.default_rng(seed)
    rows = list(_esci_rows(json.loads((data / "judgments.json").read_text()), products, generator))
    queries, documents, grades = zip(*rows, strict=True)
    return Judged(list(queries), list(documents), ["en"] * len(rows), np.array(grades, np.int64))


def _esci_rows(
    judgments: dict[str, Any], products: dict[str, str], generator: np.random.Generator
) -> Iterator[tuple[str, str, int]]:
    for one in judgments["judgmentRatings"]:
        ratings = [rating for rating in one["ratings"] if rating["docId"] in products]
        for number in generator.permutation(len(ratings))[:ESCI_PAIRS]:
            rating = ratings[number]
            yield one["query"], products[rating["docId"]], GRADES[rating["rating"]]
