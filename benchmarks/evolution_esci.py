"""Does one cycle improve a model on ESCI's 150 queries? Judgments and texts are people's, the users are simulated.

    python benchmarks/evolution_esci.py DIRECTORY --data ESCI

ESCI: a directory with ``judgments.json`` and ``products.jsonl.gz``, the 150 US queries of the Shopping Queries Dataset
(amazon-science/esci-data) that o19s/chorus-opensearch-edition publishes, both Apache-2.0.

Five folds of 30 queries. In each fold's world a fold is the rolling test set and the next one the frozen; of the 90
queries that are left, 45 have seed judgments (ten of a query's products, drawn at random), and all are asked in the
window. The engine's first stage serves a query the 13 of its own judged products that are nearest by the encoder's
cosine: nobody graded the others. Users click as ``serm.worlds.simulator`` has it, by the product's grade (Exact 3,
Substitute 2, Complement 1, Irrelevant 0), about 75 sessions a query as in the emoji world. Steps, controls and arms are
those of ``benchmarks/evolution.py``; the gate is left out, since 30 queries decide nothing.

Each query is tested once, by models that did not see it; differences are paired over all 150 queries. It resumes at any
arm, and writes benchmarks/results/evolution_esci.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from evolution import CONTROLS, HERE, Chain, Evolved, World
from evolution_arms import shipped, texts
from evolution_pooled import Measured, differences, pooled
from evolution_tests import TESTS, Test

from serm import contracts, relevance, training
from serm.atomic import write_json
from serm.settings import Settings
from serm.worlds.emoji import WINDOWS, EmojiWorld
from serm.worlds.simulator import Ranking, Users, simulate
from serm.worlds.traffic import FirstStage, nearest

FOLDS, SEED_SHARE = 5, 0.5
MINED, TOKENS = 300, 128
LIKE = EmojiWorld()  # whose sizes and users' habits these worlds have
GRADES = {"100.000": 3, "10.000": 2, "1.000": 1, "0.000": 0}
ARMS = ("SERM", *CONTROLS, "oracle")
KEY = ["query", "locale", "doc_id"]


@dataclass(frozen=True)
class Esci:
    """ESCI's judged products and one fold of its queries; stands where a world's ``emoji`` stands."""

    data: Path
    fold: int
    windows = WINDOWS

    @property
    def truth(self) -> Esci:
        """The grades, which only the simulator, the tests and the oracle may read."""
        return self

    @cached_property
    def judged(self) -> pa.Table:
        """Every judged pair whose product is there (JUDGMENTS)."""
        products = set(self.documents["doc_id"].to_pylist())
        told = json.loads((self.data / "judgments.json").read_text(encoding="utf-8"))["judgmentRatings"]
        grades = {
            (one["query"], rating["docId"]): GRADES[rating["rating"]]
            for one in told
            for rating in one["ratings"]
            if rating["docId"] in products
        }
        empty = {field.name: None for field in contracts.JUDGMENTS}
        rows = [
            empty | {"query": query, "locale": "en", "doc_id": doc_id, "grade": grade, "source": "human", "cycle": 0}
            for (query, doc_id), grade in sorted(grades.items())
        ]
        return pa.Table.from_pylist(rows, contracts.JUDGMENTS)

    @cached_property
    def documents(self) -> pa.Table:
        """The products: title, and description with bullet points (DOCUMENTS)."""
        with gzip.open(self.data / "products.jsonl.gz", "rt", encoding="utf-8") as lines:
            products = [one for one in map(json.loads, lines) if "_id" in one]
        rows = [
            {"doc_id": one["_id"], "locale": "en", "title": one["title"] or "", "attributes": []}
            | {"body": " ".join(one.get(name) or "" for name in ("description", "bullet_points")).strip()}
            | {"published_at": datetime(2015, 1, 1, tzinfo=UTC)}
            for one in products
        ]
        return pa.Table.from_pylist(rows, contracts.DOCUMENTS).sort_by("doc_id")

    def queries(self, part: str) -> list[str]:
        """Return the queries of a part: rolling, frozen, seed, or asked (the seed's among them)."""
        every = sorted(set(self.judged["query"].to_pylist()))
        order = np.random.default_rng(150).permutation(len(every))
        folds = [[every[number] for number in order[start::FOLDS]] for start in range(FOLDS)]
        test, other = self.fold, (self.fold + 1) % FOLDS
        asked = [query for number, fold in enumerate(folds) if number not in (test, other) for query in fold]
        parts = {"rolling": folds[test], "frozen": folds[other], "asked": asked}
        return parts.get(part) or asked[: round(SEED_SHARE * len(asked))]

    def of(self, queries: list[str]) -> pa.Table:
        """Return all judgments of ``queries``."""
        return self.judged.filter(pc.is_in(self.judged["query"], pa.array(queries)))

    def lookup(self, queries: pa.Array, locales: pa.Array, doc_ids: pa.Array) -> np.ndarray:
        """Return the grade of each pair: int8 [n], -1 where nobody judged it."""
        keys = zip(self.judged["query"].to_pylist(), self.judged["doc_id"].to_pylist(), strict=True)
        known = dict(zip(keys, self.judged["grade"].to_pylist(), strict=True))
        asked = zip(queries.to_pylist(), doc_ids.to_pylist(), strict=True)
        return np.array([known.get(pair, -1) for pair in asked], np.int8)


class EsciWorld(World):
    """One fold's world."""

    emoji: Any

    def settings(self, number: int) -> Settings:
        """Return the demo's settings, for longer texts and fewer pairs."""
        settings = super().settings(number)
        return settings.model_copy(update={"mining": settings.mining.model_copy(update={"budget": MINED})})

    def found(self) -> None:
        """Make seed judgments, test sets, the first champion and the reference window."""
        if (self.path / "founded").exists():
            return
        esci, stage, state = self.emoji, self.stage(), self.path / "state"
        contracts.write(esci.documents, self.path / "documents", contracts.DOCUMENTS)
        contracts.write(contracts.KNOWLEDGE.empty_table(), self.path / "knowledge", contracts.KNOWLEDGE)
        for of in ("rolling", "frozen"):
            every = esci.of(esci.queries(of))
            contracts.write(every, self.path / "tests" / of / "pool", contracts.JUDGMENTS)
            listed = self.served(esci.queries(of), stage)
            contracts.write(listed, self.path / "tests" / of / "served", contracts.JUDGMENTS)
        contracts.write(_drawn(esci.of(esci.queries("seed"))), state / "judgments", contracts.JUDGMENTS)
        first = self.path / "arms" / "static" / "model"
        if not first.exists():
            training.bootstrap(state / "judgments", self.path / "documents", first, self.settings(1))
        log = self.log(0, esci.queries("seed"), first, stage)
        contracts.write(log, state / "reference", contracts.IMPRESSIONS)
        write_json(self.path / "founded", {})

    def served(self, queries: list[str], stage: FirstStage) -> pa.Table:
        """Return the judgments of what the first stage serves for ``queries``."""
        every = self.emoji.of(queries)
        known = texts(self.path / "documents")
        cosines = stage.cosines(every["query"].to_pylist(), [known[one] for one in every["doc_id"].to_pylist()])
        names = np.asarray(every["query"])
        rows = [np.flatnonzero(names == query) for query in sorted(queries)]
        kept = [here[nearest(cosines[here][None], LIKE.candidates)[0]] for here in rows]
        return every.take(pa.array(np.sort(np.concatenate(kept))))

    def simulate(self, number: int, champion: Path) -> None:
        """Write the log of the window's simulated users."""
        log = self.log(number, self.emoji.queries("asked"), champion, self.stage())
        contracts.write(log, self.path / "log" / f"window={number}", contracts.IMPRESSIONS)

    def log(self, number: int, queries: list[str], champion: Path, stage: FirstStage) -> pa.Table:
        """Return what simulated users do with what ``champion`` shows them for ``queries`` (IMPRESSIONS)."""
        listed, model, known = self.served(queries, stage), relevance.load(champion), texts(self.path / "documents")
        scores = model.score(listed["query"].to_pylist(), [known[one] for one in listed["doc_id"].to_pylist()]).expected
        listed = listed.append_column("score", pa.array(scores)).sort_by(
            [("query", "ascending"), ("score", "descending")]
        )
        shape = (len(set(queries)), LIKE.candidates)
        generator = np.random.default_rng([self.emoji.fold, number])
        ranking = Ranking(
            queries=np.asarray(listed["query"]).reshape(shape)[:, 0],
            locales=np.full(shape[0], "en"),
            doc_ids=np.asarray(listed["doc_id"]).reshape(shape),
            published=np.full(shape, np.datetime64("2015-01-01", "us")),
            scores=np.asarray(listed["score"]).reshape(shape),
            version=model.version,
        )
        shares = generator.permutation(np.arange(1, shape[0] + 1, dtype=float) ** -LIKE.zipf)
        return simulate(
            ranking,
            np.asarray(listed["grade"]).reshape(shape),
            shares / shares.sum(),
            np.full(shape[0], -1),
            window=WINDOWS[number],
            name=f"w{number}",
            sessions=LIKE.sessions // LIKE.window_queries * shape[0],
            positions=LIKE.positions,
            exploration=LIKE.exploration,
            users=Users(),
            generator=generator,
        )


def _drawn(every: pa.Table) -> pa.Table:
    """Return a few judgments of each query, drawn at random, as seed judgments."""
    order = np.random.default_rng(10).permutation(every.num_rows)
    names = np.asarray(every["query"])[order]
    kept = np.concatenate([order[names == query][: LIKE.seed_pairs] for query in np.unique(names)])
    drawn = every.take(pa.array(np.sort(kept)))
    return drawn.set_column(drawn.column_names.index("source"), "source", pa.array(["seed"] * drawn.num_rows))


def fold(world: EsciWorld, workers: int) -> tuple[dict[str, Any], list[Measured]]:
    """Take the fold's world through one cycle; return what its arms learnt from, and their NDCG on its tests."""
    world.found()
    static, known = world.path / "arms" / "static" / "model", world.path / "state" / "judgments"
    window = world.open(1, static, known)
    Chain(world.path / "arms" / "SERM", static, known).learn(1, shipped, window, world.settings(1))
    trained = json.loads((world.path / "arms" / "SERM" / "cycle-1" / "train" / "train.json").read_text())
    evolved = Evolved(world, [window], [True])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        models = {name: of_arm[0] for name, of_arm in zip(ARMS, pool.map(evolved.champions, ARMS), strict=True)}
    models |= {"static": static}
    labels = {}
    for part in ("judgments", "shown"):
        table = contracts.read(world.path / "arms" / "SERM" / "cycle-1" / "annotate" / part, contracts.JUDGMENTS)
        truth = world.emoji.lookup(*(table[name].combine_chunks() for name in KEY))
        right = (table["grade"].to_numpy() == truth)[truth >= 0]  # some that were mined have no judgment
        labels[part] = {"pairs": table.num_rows, "judged": len(right), "right": round(float(right.mean()), 4)}
    told = {"steps": trained["steps"]["taken"], "labels": labels}
    return told, [Test.read(world.path, 1, *test).measured(models, {}) for test in TESTS]


def joined(folds: list[Measured]) -> Measured:
    """Return one test set of the folds' queries."""
    arms = {
        arm: {measure: np.concatenate([one.values[arm][measure] for one in folds]) for measure in values}
        for arm, values in folds[0].values.items()
    }
    size = sum(len(one.slices["all"]) for one in folds)
    return Measured(folds[0].of, {"all": np.ones(size)}, arms)


def main() -> None:
    """Run the folds and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="arms at a time; each trains with two threads")
    arguments = parser.parse_args()
    found = []
    longer = {"max_tokens": TOKENS, "cache": arguments.directory.absolute() / "encodings"}
    changed = {"relevance": longer}
    for number in range(FOLDS):
        path = arguments.directory.absolute() / f"fold-{number}"
        found.append(fold(EsciWorld(path, Esci(arguments.data, number), "pool", changed), arguments.workers))
    tests = [joined([measured[row] for _, measured in found]) for row in range(len(TESTS))]
    told: dict[str, Any] = {
        "command": "python benchmarks/evolution_esci.py DIRECTORY --data ESCI",
        "users": "simulated",
    }
    told |= {"date": date.today().isoformat(), "processor": platform.processor() or platform.machine()}
    told["folds"] = [of_fold for of_fold, _ in found]
    told["means"] = {
        test.of: {arm: {k: round(float(np.nanmean(v)), 4) for k, v in by.items()} for arm, by in test.values.items()}
        for test in tests
    }
    compared = {f"{test.of} | {name}": pooled([line]) for test in tests for name, line in differences(test).items()}
    told["differences"] = compared
    form = "{difference:+.4f} ({low:+.3f} to {high:+.3f}, p {p}, {queries} queries)"
    told["summary"] = {
        f"{test.of}: SERM over {against}, {measure}": form.format(
            **compared[f"{test.of} | SERM over {against} | {measure} | all"]
        )
        for test in tests
        for against in ("static", *CONTROLS)
        for measure in ("NDCG@1", "NDCG@10")
    }
    write_json(HERE / "evolution_esci.json", told)
    print(json.dumps(told["summary"], indent=1))


if __name__ == "__main__":
    main()
