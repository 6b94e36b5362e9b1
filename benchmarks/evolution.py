"""Does the loop improve a model on what users are served, and is it the labels that do it? Worlds of simulated users.

    python benchmarks/evolution.py DIRECTORY --seed 101 [--judgments pool] [--cycles 3] [--ablations]
    python benchmarks/evolution.py DIRECTORY --summary

Each seed is a world of its own: other seed judgments, test queries, simulated users and traffic. Its seed judgments are
either pools, as a team makes them before it has a log (``--judgments pool``: what is gained holds the step from offline
judgments to traffic), or whole lists that the first stage serves (``served``: drift alone).

In each window SERM's champion serves; ingest, validate, mine and annotate run as they ship. Then each arm trains its
own chain of models from the same first champion. SERM's moves on where its gate passes. ``replay`` (no new label) and
``self-training`` (the new pairs, labelled by the chain's own model) take as many steps as SERM did in the same cycles,
so what they gain is not the labels' doing; the other arms move on in each cycle. ``static`` is the first champion.

Killed at any line it goes on at the arm where it was. One world's figures are in ``results/evolution/``, committed; the
summary over all of them is ``results/evolution.json``. To be explored on seeds 101 to 103, and
run once on seeds 0 to 4. Until 2026-11-26 one cycle of all arms was trained in a tiny world, and no summary made yet.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from evolution_arms import ABLATIONS, ARMS, Labels, Window
from evolution_pooled import Measured, differences, summary

from serm import contracts, judging, mining, release, relevance, stream, training, validation
from serm import settings as params
from serm.atomic import replace_directory, write_json
from serm.evaluation.measures import ndcg
from serm.evaluation.overlap import share_token
from serm.settings import Settings
from serm.workspace.merge import merged
from serm.worlds import pools, traffic
from serm.worlds.emoji import FAMILIES, WINDOWS, EmojiWorld

HERE = Path(__file__).parent / "results"
CONTROLS = ("replay", "self-training")
SETS = ("rolling", "frozen")
DOCUMENTS = ("served", "pool")
FROZEN_QUERIES = 250
"""Of the frozen set, the first of which are measured: it is there to see what is forgotten."""
CUTOFFS = (1, 10)
SMALL = {"seed_queries": 60, "test_queries": 60, "window_queries": 80, "sessions": 3000}
TEMPLATE = Path(params.__file__).parents[1] / "workspace" / "template" / "params.yaml"


@dataclass(frozen=True)
class World:
    """One world, in a directory of its own."""

    path: Path
    emoji: EmojiWorld
    shape: str

    def settings(self, number: int) -> Settings:
        """Return the demo's settings for cycle ``number``."""
        settings = params.load(TEMPLATE)
        start, end = WINDOWS[number]
        cycle = settings.cycle.model_copy(update={"number": number, "start": start, "end": end})
        without = settings.training.model_copy(update={"controls": ()})  # the arms are the controls here
        return settings.model_copy(update={"cycle": cycle, "training": without})

    def stage(self) -> traffic.FirstStage:
        """Return the engine's first stage."""
        settings = self.settings(1).relevance
        return traffic.FirstStage(relevance.load_encoder(settings.base, settings))

    def found(self) -> None:
        """Make seed judgments, test sets, the first champion and the reference window."""
        first = self.path / "arms" / "static" / "model"
        if (self.path / "founded").exists():
            return
        stage = self.stage()
        pools.prepare(self.path, 0, self.emoji, stage)
        if self.shape == "served":
            contracts.write(self.served_seed(stage), self.path / "state" / "judgments", contracts.JUDGMENTS)
        if not first.exists():
            training.bootstrap(self.path / "state" / "judgments", self.path / "documents", first, self.settings(1))
        traffic.simulate_window(self.path, 0, self.emoji, relevance.load(first), stage)
        write_json(self.path / "founded", {})

    def served_seed(self, stage: traffic.FirstStage) -> pa.Table:
        """Return the seed queries' judgments over the whole lists that the first stage serves them (JUDGMENTS)."""
        pooled, truth = pools.seed(self.emoji, stage), self.emoji.truth
        asked = set(zip(pooled["locale"].to_pylist(), pooled["query"].to_pylist(), strict=True))
        rows = [row for row, one in enumerate(zip(truth.locales, truth.queries, strict=True)) if one in asked]
        listed = pools.served(self.emoji, np.array(rows), 0, stage)
        return listed.set_column(listed.column_names.index("source"), "source", pa.array(["seed"] * listed.num_rows))

    def open(self, number: int, champion: Path, judgments: Path) -> Window:
        """Simulate a window that ``champion`` serves, and take SERM's steps up to annotate on it."""
        here, settings = self.path / f"window-{number}", self.settings(number)
        if not here.exists():
            stage = self.stage()
            pools.prepare(self.path, number, self.emoji, stage)
            traffic.simulate_window(self.path, number, self.emoji, relevance.load(champion), stage)
            here.mkdir(exist_ok=True)
        if not (here / "ingest").exists():
            stream.ingest(self.path / "log", here / "ingest", settings)
        reference = self.path / "state" / "reference" if number == 1 else self.validated(number - 1) / "impressions"
        profiles = self.path / "state" / "profiles" if number == 1 else self.validated(number - 1) / "profiles"
        if not profiles.exists():
            contracts.write(contracts.PROFILES.empty_table(), profiles, contracts.PROFILES)
        if not (here / "validate").exists():
            known = (here / "ingest", self.path / "documents", judgments, profiles)
            validation.validate(*known, here / "validate", settings)
        if not (here / "mine").exists():
            read = (here / "validate", reference, champion, judgments, self.path / "tests")
            mining.mine(*read, here / "mine", settings)
        if not (here / "annotate").exists():
            knowledge = self.path / "knowledge"
            judging.annotate(here / "mine", here / "validate", judgments, knowledge, here / "annotate", settings)
        return Window(here, self.path, judgments, self.emoji, settings)

    def validated(self, number: int) -> Path:
        """Return where the validated window is."""
        return self.path / f"window-{number}" / "validate"


@dataclass
class Chain:
    """One arm's models, a cycle after the other, and what it knows."""

    path: Path
    champion: Path
    judgments: Path

    def cycle(self, number: int) -> Path:
        """Return where its cycle is."""
        return self.path / f"cycle-{number}"

    def learn(self, number: int, labels: Labels, window: Window, settings: Settings) -> Path:
        """Train a challenger on ``labels`` if that is not done, and return it; what it knows grows by them."""
        here = self.cycle(number)
        if not (here / "train").exists():
            mined, shown = labels(window)
            contracts.write(mined, here / "annotate" / "judgments", contracts.JUDGMENTS)
            contracts.write(shown, here / "annotate" / "shown", contracts.JUDGMENTS)
            read = (self.champion, self.judgments, here / "annotate", window.path / "validate")
            training.train(*read, here / "train", settings)
            known = contracts.read(self.judgments, contracts.JUDGMENTS)
            contracts.write(merged(merged(known, mined), shown), here / "known", contracts.JUDGMENTS)
        self.judgments = here / "known"
        return here / "train" / "model"


def self_labelled(champion: Path, documents: Path) -> Labels:
    """Return labels as SERM's own, with what ``champion`` believes in their place."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        model, texts = relevance.load(champion), _texts(documents)
        return _believed(window.kept(), model, texts), _believed(window.shown(), model, texts)

    return labels


def nothing(window: Window) -> tuple[pa.Table, pa.Table]:
    """Return no labels."""
    return contracts.JUDGMENTS.empty_table(), contracts.JUDGMENTS.empty_table()


def run(world: World, cycles: int, ablations: bool) -> dict[str, Any]:
    """Evolve all arms through the windows; return what ``evolution_pooled.summary`` reads of a world."""
    world.found()
    first, seed = world.path / "arms" / "static" / "model", world.path / "state" / "judgments"
    arms = ARMS | (ABLATIONS if ablations else {})
    chains = {name: Chain(world.path / "arms" / name, first, seed) for name in ("SERM", *CONTROLS, *arms)}
    found: dict[str, Any] = {"judgments": world.shape, "cycles": {}, "differences": {}}
    for number in range(1, cycles + 1):
        settings, serm = world.settings(number), chains["SERM"]
        window = world.open(number, serm.champion, serm.judgments)
        challenger = serm.learn(number, arms["SERM"], window, settings)
        passed = _gate(world, window, serm, number, settings)
        steps = json.loads((serm.cycle(number) / "train" / "train.json").read_text())["steps"]["taken"]
        matched = settings.model_copy(update={"training": settings.training.model_copy(update={"steps": steps})})
        models = {"static": first}
        for name, chain in chains.items():
            if name == "SERM":
                model = challenger
            elif name in CONTROLS:
                labels = nothing if name == "replay" else self_labelled(chain.champion, world.path / "documents")
                model = chain.learn(number, labels, window, matched)
            else:
                model = chain.learn(number, arms[name], window, settings)
            if passed or name not in ("SERM", *CONTROLS):
                chain.champion = model
            models[name] = chain.champion
        models["SERM's challenger"] = challenger
        measured = [_measured(world, number, models, of, documents) for of in SETS for documents in DOCUMENTS]
        found["cycles"][str(number)] = _told(window, chains, number, passed)
        found["differences"][str(number)] = {each.of: differences(each) for each in measured}
        found["means"] = found.get("means", {}) | {str(number): {each.of: _means(each) for each in measured}}
        write_json(world.path / "figures.json", found)
    return found


def _gate(world: World, window: Window, serm: Chain, number: int, settings: Settings) -> bool:
    """Let the evaluate step decide on SERM's challenger, as it ships."""
    out = serm.cycle(number) / "evaluate"
    if not out.exists():
        reference = world.path / "state" / "reference" if number == 1 else world.validated(number - 1) / "impressions"
        read = (window.path / "annotate", world.path / "tests", window.path / "validate", reference)
        release.evaluate(serm.champion, serm.cycle(number) / "train", *read, out, settings)
    return bool(json.loads((out / "evaluate.json").read_text())["gate"]["result"] == "passed")


def _measured(world: World, number: int, models: dict[str, Path], of: str, documents: str) -> Measured:
    """Return NDCG by query that each of ``models`` has on a test set; a model is scored once."""
    table = contracts.read(world.path / "tests" / of / documents, contracts.JUDGMENTS)
    table = _rankable(table, FROZEN_QUERIES if of == "frozen" else None)
    texts = _texts(world.path / "documents")
    queries = table["query"].to_pylist()
    pairs = [texts[doc_id] for doc_id in table["doc_id"].to_pylist()]
    first = np.unique(table["number"].to_numpy(), return_index=True)[1]
    locales = table["locale"].take(pa.array(first)).to_pylist()
    family = {locale: name for name, there in FAMILIES.items() for locale in there}
    families = np.array([family[locale] for locale in locales])
    grades = table["grade"].to_numpy().astype(np.int64)
    numbers = table["number"].to_numpy()
    shared = np.array([share_token(*one) for one in zip(queries, pairs, table["locale"].to_pylist(), strict=True)])
    slices = {"all": np.ones(len(first), bool)} | {name: families == name for name in FAMILIES}
    values: dict[str, dict[str, np.ndarray]] = {}
    for arm, path in models.items():
        scores = _scores(
            path, world.path / "scores" / f"{of}-{documents}-{number if of == 'rolling' else 0}", queries, pairs
        )
        found = ndcg(numbers, grades, scores, CUTOFFS, 23)
        apart = _apart(numbers, grades, scores, ~shared)
        values[arm] = {f"NDCG@{k}": found[:, column] for column, k in enumerate(CUTOFFS)}
        values[arm] |= {f"NDCG@{k}, no shared token": apart[:, column] for column, k in enumerate(CUTOFFS)}
    return Measured(f"{of} {documents}", slices, values)


def _apart(numbers: np.ndarray, grades: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return NDCG over these ``rows`` [queries, cutoffs]; not a number where they cannot be ranked wrongly."""
    found = np.full((int(numbers.max()) + 1, len(CUTOFFS)), np.nan)
    kept = _with_two_grades(numbers, grades, rows)
    if kept.any():
        there, number = np.unique(numbers[kept], return_inverse=True)
        found[there] = ndcg(number, grades[kept], scores[kept], CUTOFFS, 23)
    return found


def _with_two_grades(numbers: np.ndarray, grades: np.ndarray, rows: np.ndarray) -> np.ndarray:
    count = int(numbers.max()) + 1
    low, high = np.full(count, 9), np.full(count, -1)
    np.minimum.at(low, numbers[rows], grades[rows])
    np.maximum.at(high, numbers[rows], grades[rows])
    return rows & (low < high)[numbers]


def _rankable(table: pa.Table, limit: int | None) -> pa.Table:
    """Return the rows of queries with two grades, numbered; at most ``limit`` queries, drawn at random."""
    keys = np.array([f"{a}\t{b}" for a, b in zip(table["locale"].to_pylist(), table["query"].to_pylist(), strict=True)])
    numbers = np.unique(keys, return_inverse=True)[1]
    kept = _with_two_grades(numbers, table["grade"].to_numpy().astype(np.int64), np.ones(len(numbers), bool))
    there = np.unique(numbers[kept])
    if limit is not None and len(there) > limit:
        there = there[np.sort(np.random.default_rng(5).permutation(len(there))[:limit])]
    kept &= np.isin(numbers, there)
    table = table.filter(pa.array(kept)).append_column("number", pa.array(np.searchsorted(there, numbers[kept])))
    return table.sort_by([("number", "ascending"), ("doc_id", "ascending")])


def _scores(model: Path, cache: Path, queries: list[str], texts: list[str]) -> np.ndarray:
    loaded = relevance.load(model)
    file = cache / f"{loaded.version}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        scores = loaded.score(queries, texts).expected
        with replace_directory(cache / f"{loaded.version}.part") as beside:
            np.save(beside / "scores.npy", scores)
        (cache / f"{loaded.version}.part" / "scores.npy").rename(file)
        (cache / f"{loaded.version}.part").rmdir()
    found: np.ndarray = np.load(file)
    return found


def _believed(table: pa.Table, model: relevance.Model, texts: dict[str, str]) -> pa.Table:
    """Return ``table`` (JUDGMENTS) with the model's own distributions for labels."""
    if not table.num_rows:
        return table
    believed = model.score(table["query"].to_pylist(), [texts[one] for one in table["doc_id"].to_pylist()]).distribution
    kind = contracts.JUDGMENTS.field("distribution").type
    listed = pa.FixedSizeListArray.from_arrays(pa.array(believed.ravel(), pa.float64()), believed.shape[1]).cast(kind)
    grades = pa.array(believed.argmax(axis=1), pa.int8())
    table = table.set_column(table.column_names.index("distribution"), "distribution", listed)
    return table.set_column(table.column_names.index("grade"), "grade", grades)


def _texts(documents: Path) -> dict[str, str]:
    table = contracts.read(documents, contracts.DOCUMENTS)
    named = zip(*(table[name].to_pylist() for name in ("doc_id", "title", "body")), strict=True)
    return {doc_id: relevance.document_text(title, body) for doc_id, title, body in named}


def _told(window: Window, chains: dict[str, Chain], number: int, passed: bool) -> dict[str, Any]:
    """Return what each arm learnt from, how right it was, and what the gate said."""
    arms = {}
    for name, chain in chains.items():
        there = chain.cycle(number) / "annotate"
        parts = {}
        for part in ("judgments", "shown"):
            table = contracts.read(there / part, contracts.JUDGMENTS)
            truth = window.emoji.truth.lookup(*(table[name].combine_chunks() for name in ("query", "locale", "doc_id")))
            right = float((table["grade"].to_numpy() == truth).mean()) if table.num_rows else None
            parts[part] = {"pairs": table.num_rows, "right": None if right is None else round(right, 4)}
        trained = json.loads((chain.cycle(number) / "train" / "train.json").read_text())
        arms[name] = parts | {"steps": trained["steps"]["taken"], "used": trained["pairs"]["used"]}
    annotated = json.loads((window.path / "annotate" / "annotate.json").read_text())
    return {"gate": passed, "arms": arms, "mined": annotated["mined"], "kept": annotated["kept"]}


def _means(measured: Measured) -> dict[str, dict[str, float]]:
    return {
        arm: {measure: round(float(np.nanmean(values)), 4) for measure, values in by_measure.items()}
        for arm, by_measure in measured.values.items()
    }


def main() -> None:
    """Run the worlds that were asked for, then make the summary of all that were ever run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--judgments", choices=("pool", "served"), default="pool")
    parser.add_argument("--cycles", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--small", action="store_true", help="a tiny world, to see that it runs; nothing is kept")
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else {}
    for seed in arguments.seed:
        name = f"seed-{seed}-{arguments.judgments}" + ("-small" if arguments.small else "")
        began = time.monotonic()
        world = World(arguments.directory.absolute() / name, EmojiWorld(seed=seed, **sizes), arguments.judgments)
        found = run(world, arguments.cycles, arguments.ablations)
        found |= {"date": date.today().isoformat(), "minutes": round((time.monotonic() - began) / 60, 1)}
        found |= {"seed": seed, "users": "simulated", "processor": platform.processor() or platform.machine()}
        if not arguments.small:
            write_json(HERE / "evolution" / f"{name}.json", found)
    worlds = {file.stem: json.loads(file.read_text()) for file in sorted((HERE / "evolution").glob("*.json"))}
    explored = {name: world for name, world in worlds.items() if world["seed"] >= 100}
    confirmed = {name: world for name, world in worlds.items() if world["seed"] < 100}
    if worlds and not arguments.small:
        told = {"command": "python benchmarks/evolution.py DIRECTORY --seed S ...", "users": "simulated"}
        told |= {"summary": {"confirmed": summary(confirmed), "explored": summary(explored)}}
        write_json(HERE / "evolution.json", told)


if __name__ == "__main__":
    main()
