"""Does the loop improve a model on what users are served, and is it the labels that do it? Worlds of simulated users.

    python benchmarks/evolution.py DIRECTORY --seed 101 [--judgments pool] [--split 1] [--cycles 3] [--arms NAME ...]
    python benchmarks/evolution.py DIRECTORY  # the summary alone

Each seed is a world of its own: other seed judgments, simulated users and traffic; its rolling test queries are all
that are new in a window, so they are the same in every world of one ``--split``. Its seed judgments are either pools,
as a team makes them before it has a log (``--judgments pool``: what is gained holds the step from offline judgments to
traffic), or whole lists that the first stage serves (``served``: drift alone).

First SERM evolves: in each window its champion serves; ingest, validate, mine, annotate, train and evaluate run as
they ship, and it moves on where its gate passes. Then each other arm trains its own chain of models on the same
windows, from the same first champion, ``--workers`` at a time. ``replay`` (no new label) and ``self-training`` (the new
pairs, labelled by the chain's own model) take as many passes as SERM did and move on when it does, so what they gain is
not the labels' doing; the other arms move on in each cycle. ``static`` is the first champion.

Models are tested on queries that are held out of all that is learnt (rolling and frozen), and on what users ask in the
next window, of which a part was asked before and learnt from: that is what a search engine gets out of a cycle. There
they stand beside the labels alone, looked up in a table, with a model for what has none.

Killed at any line it goes on at the arm where it was. One world's figures are in ``results/evolution/``, committed; the
summary over all of them is ``results/evolution.json``. Settings are explored on seeds
101 and above; each other seed is run once.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from evolution_arms import ABLATIONS, ARMS, Arm, Labels, Window, nothing, self_labelled, shipped
from evolution_pooled import ASKED, CHALLENGER, ITS_CHAMPION, Measured, differences, headline, summary
from evolution_tests import TESTS, Test

from serm import contracts, judging, mining, release, relevance, stream, training, validation
from serm import settings as params
from serm.atomic import write_json
from serm.settings import Settings
from serm.workspace.merge import merged
from serm.worlds import pools, traffic
from serm.worlds.emoji import LAUNCHES, WINDOWS, EmojiWorld

HERE = Path(__file__).parent / "results"
CONTROLS = ("replay", "self-training")
TOGETHER = ("seed-8-pool-split-6-batch_pairs-40-learning_rate-0.0001", "seed-9-pool-split-7", "seed-13-pool-split-11")
"""Worlds of fresh queries and three windows that are told together; the first took as many steps of half the size."""
YEARS = (2016, 2017, 2018, 2019, 2020, 2021, 2023, 2026)
#: The same world's news in six windows, for more cycles than it has of its own.
LONGER = {
    "windows": tuple((datetime(a, 1, 1, tzinfo=UTC), datetime(b, 1, 1, tzinfo=UTC)) for a, b in pairwise(YEARS)),
    "launches": (LAUNCHES[0], ("nl", "sv"), ("ko", "pl"), ("uk", "zh"), ("bn", "th"), ("hi",), ("vi",)),
}
SMALL = {"seed_queries": 60, "test_queries": 60, "window_queries": 80, "sessions": 3000}
TEMPLATE = Path(params.__file__).parents[1] / "workspace" / "template" / "params.yaml"


@dataclass(frozen=True)
class World:
    """One world, in a directory of its own."""

    path: Path
    emoji: EmojiWorld
    shape: str
    changed: Mapping[str, Mapping[str, Any]]
    """Section -> what differs in it from the demo's settings."""

    def settings(self, number: int) -> Settings:
        """Return the demo's settings for cycle ``number``."""
        settings = params.load(TEMPLATE)
        start, end = self.emoji.windows[number]
        cycle = settings.cycle.model_copy(update={"number": number, "start": start, "end": end})
        # The arms are the controls here.
        ours: dict[str, dict[str, Any]] = {
            "training": {"controls": ()},
            "relevance": {"cache": self.path / "encodings"},
            "evaluation": {},
        }
        sections = {
            name: type(section).model_validate(section.model_dump() | ours[name] | self.changed.get(name, {}))
            for name, section in ((name, getattr(settings, name)) for name in ours)
        }
        return settings.model_copy(update={"cycle": cycle, **sections})

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
        if not (here / "simulated").exists():
            self.simulate(number, champion)
            for known in ("documents", "knowledge", "tests"):  # the next window has others
                shutil.copytree(self.path / known, here / known, dirs_exist_ok=True)
            write_json(here / "simulated", {})
        if not (here / "ingest").exists():
            stream.ingest(self.path / "log", here / "ingest", settings)
        profiles = self.path / "state" / "profiles" if number == 1 else self.validated(number - 1) / "profiles"
        if not profiles.exists():
            contracts.write(contracts.PROFILES.empty_table(), profiles, contracts.PROFILES)
        if not (here / "validate").exists():
            known_before = (here / "ingest", here / "documents", judgments, profiles)
            validation.validate(*known_before, here / "validate", settings)
        if not (here / "mine").exists():
            read = (here / "validate", self.reference(number), champion, judgments, here / "tests")
            mining.mine(*read, here / "mine", settings)
        if not (here / "annotate").exists():
            told = (here / "mine", here / "validate", judgments, here / "knowledge")
            judging.annotate(*told, here / "annotate", settings)
        return Window(here, self.reference(number), champion, judgments, self.emoji, settings)

    def simulate(self, number: int, champion: Path) -> None:
        """Write what is known at window ``number``, and the log of its users, whom ``champion`` serves."""
        stage = self.stage()
        pools.prepare(self.path, number, self.emoji, stage)
        traffic.simulate_window(self.path, number, self.emoji, relevance.load(champion), stage)

    def ask(self, number: int) -> None:
        """Write what the first stage serves for the queries of a window's traffic, with their true grades."""
        path = self.path / f"window-{number}" / "asked"
        if not path.exists():
            rows = np.sort(traffic.popularity(self.emoji, number)[0])
            contracts.write(pools.served(self.emoji, rows, number, self.stage()), path, contracts.JUDGMENTS)

    def tests(self, number: int) -> list[Test]:
        """Return what models are tested on after a cycle; what is asked next, where there is a next window."""
        there = [Test.read(self.path, number, *test) for test in TESTS]
        if (self.path / f"window-{number + 1}" / "asked").exists():
            there.append(Test.asked(self.path, self.emoji, number))
        return there

    def reference(self, number: int) -> Path:
        """Return the impressions that window ``number`` is compared with."""
        return self.path / "state" / "reference" if number == 1 else self.validated(number - 1) / "impressions"

    def known(self, number: int) -> Path:
        """Return what SERM knew after a cycle (JUDGMENTS); after none, the seed judgments."""
        return self.path / (f"arms/SERM/cycle-{number}/known" if number else "state/judgments")

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
        if not (here / "known").exists():
            known = contracts.read(self.judgments, contracts.JUDGMENTS)
            for part in ("judgments", "shown"):
                known = merged(known, contracts.read(here / "annotate" / part, contracts.JUDGMENTS))
            contracts.write(known, here / "known", contracts.JUDGMENTS)
        self.judgments = here / "known"
        return here / "train" / "model"


@dataclass(frozen=True)
class Evolved:
    """What SERM did in a world, which the other arms follow."""

    world: World
    windows: list[Window]
    passed: list[bool]
    """Whether each cycle's gate let its challenger pass."""

    def champions(self, name: str) -> list[Path]:
        """Let an arm evolve through the same windows; return its champion after each cycle, scored on all tests."""
        first = self.world.path / "arms" / "static" / "model"
        chain = Chain(self.world.path / "arms" / name, first, self.world.path / "state" / "judgments")
        found = []
        for number, window in enumerate(self.windows, 1):
            arm, settings = arms().get(name, Arm(shipped)), self.world.settings(number)
            labels, options = arm.labels, dict(arm.training)
            if name in CONTROLS:
                labels = nothing if name == "replay" else self_labelled(chain.champion, window.path / "documents")
            changed = settings.model_copy(update={"training": settings.training.model_copy(update=options)})
            challenger = chain.learn(number, labels, window, changed)
            if self.passed[number - 1] or name not in ("SERM", *CONTROLS):
                chain.champion = challenger
            found.append(chain.champion)
        for number, model in enumerate(found, 1):
            for test in self.world.tests(number):
                test.scores(model)
        return found


def arms() -> dict[str, Arm]:
    """Return all arms but SERM and its controls."""
    return ARMS | ABLATIONS


def evolve(world: World, cycles: int) -> Evolved:
    """Let SERM evolve through the windows."""
    world.found()
    serm = Chain(world.path / "arms" / "SERM", world.path / "arms" / "static" / "model", world.path / "state/judgments")
    evolved = Evolved(world, [], [])
    for number in range(1, cycles + 1):
        settings = world.settings(number)
        window = world.open(number, serm.champion, serm.judgments)
        challenger = serm.learn(number, shipped, window, settings)
        evolved.windows.append(window)
        evolved.passed.append(_gate(world, window, serm, number, settings))
        if evolved.passed[-1]:
            serm.champion = challenger
    return evolved


def run(world: World, cycles: int, names: list[str], workers: int) -> dict[str, Any]:
    """Evolve SERM, then the arms ``names``, in a world; return what ``evolution_pooled.summary`` reads of it."""
    evolved = evolve(world, cycles)
    for number in range(2, cycles + 1):
        world.ask(number)
    every = ["SERM", *CONTROLS, *names]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        champions = dict(zip(every, pool.map(evolved.champions, every), strict=True))
    found: dict[str, Any] = {"cycles": {}, "differences": {}, "means": {}}
    for number, window in enumerate(evolved.windows, 1):
        models = {name: of_arm[number - 1] for name, of_arm in champions.items()}
        models |= {"static": world.path / "arms" / "static" / "model"}
        models |= {CHALLENGER: world.path / "arms" / "SERM" / f"cycle-{number}" / "train" / "model"}
        models |= {ITS_CHAMPION: window.champion}
        measured = []
        for test in world.tests(number):
            known = [world.known(cycle) for cycle in (number, number - 1)]
            rankings = test.looked_up(*known, models) if test.of == ASKED else {}
            measured.append(test.measured(models, rankings))
        found["cycles"][str(number)] = _told(world, window, every, number, evolved.passed[number - 1])
        found["differences"][str(number)] = {each.of: differences(each) for each in measured}
        found["means"][str(number)] = {each.of: _means(each) for each in measured}
    return found


def _gate(world: World, window: Window, serm: Chain, number: int, settings: Settings) -> bool:
    """Let the evaluate step decide on SERM's challenger, as it ships."""
    out = serm.cycle(number) / "evaluate"
    if not out.exists():
        read = (window.path / "annotate", window.path / "tests", window.path / "validate", world.reference(number))
        release.evaluate(serm.champion, serm.cycle(number) / "train", *read, out, settings)
    rules = json.loads((out / "evaluate.json").read_text())["gate"]["rules"]
    # How a server answers on this machine says nothing of a ranking.
    return all(rule["result"] == "passed" for rule in rules if rule["rule"] != "serving")


def _told(world: World, window: Window, names: list[str], number: int, passed: bool) -> dict[str, Any]:
    """Return what each arm learnt from, how right it was, and what the gate said."""
    arms = {}
    for name in names:
        here = world.path / "arms" / name / f"cycle-{number}"
        parts = {}
        for part in ("judgments", "shown"):
            table = contracts.read(here / "annotate" / part, contracts.JUDGMENTS)
            truth = window.emoji.truth.lookup(*(table[name].combine_chunks() for name in ("query", "locale", "doc_id")))
            right = float((table["grade"].to_numpy() == truth).mean()) if table.num_rows else None
            parts[part] = {"pairs": table.num_rows, "right": None if right is None else round(right, 4)}
        trained = json.loads((here / "train" / "train.json").read_text())
        arms[name] = parts | {"steps": trained["steps"]["taken"], "used": trained["pairs"]["used"]}
    annotated = json.loads((window.path / "annotate" / "annotate.json").read_text())
    gate = json.loads((world.path / "arms" / "SERM" / f"cycle-{number}" / "evaluate" / "evaluate.json").read_text())
    told = {"gate": passed, "checks": gate["gate"], "arms": arms}
    return told | {"mined": annotated["mined"], "kept": annotated["kept"]}


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
    parser.add_argument("--split", type=int, default=1, help="draw of the test queries, which worlds of one draw share")
    parser.add_argument("--training", type=json.loads, default={}, help="what differs from the demo's, as JSON")
    parser.add_argument("--relevance", type=json.loads, default={}, help="as --training")
    parser.add_argument("--sessions", type=int, help="simulated sessions of a window, for the world's own")
    parser.add_argument("--min-gain", type=float, help="the gate's, for the demo's; below 0 no gain need be shown")
    longer = "more than 3: in a world that has its news in six windows"
    parser.add_argument("--cycles", type=int, default=3, choices=range(1, 7), help=longer)
    beside = "arms beside SERM and its controls; --arms alone for none"
    parser.add_argument("--arms", nargs="*", choices=[*arms()], default=[*ARMS], metavar="NAME", help=beside)
    parser.add_argument("--ablations", action="store_true", help="all arms")
    parser.add_argument("--workers", type=int, default=1, help="arms at a time; each trains with two threads")
    parser.add_argument("--small", action="store_true", help="a tiny world, to see that it runs; nothing is kept")
    arguments = parser.parse_args()
    sizes: dict[str, Any] = dict(SMALL) if arguments.small else {}
    names = [*arms()] if arguments.ablations else arguments.arms
    fresh = ["fresh queries"] if arguments.split != 1 else []
    sections = {"training": arguments.training, "relevance": arguments.relevance}
    changed = [f"{field} {value}" for of in sections.values() for field, value in sorted(of.items())]
    if arguments.sessions:
        sizes, changed = sizes | {"sessions": arguments.sessions}, [*changed, f"sessions {arguments.sessions}"]
    if arguments.min_gain is not None:
        sections["evaluation"] = {"gate": {"min_gain": arguments.min_gain}}
        changed = [*changed, f"min_gain {arguments.min_gain:g}"]
    if arguments.cycles >= len(WINDOWS):
        sizes, changed = sizes | LONGER, [*changed, f"windows {len(LONGER['windows']) - 1}"]
    parts = ([f"split {arguments.split}"] if fresh else []) + changed + (["small"] if arguments.small else [])
    for seed in arguments.seed:
        name = "-".join(f"seed {seed} {' '.join([arguments.judgments, *parts])}".split())
        began = time.monotonic()
        emoji = EmojiWorld(seed=seed, split=arguments.split, **sizes)
        world = World(arguments.directory.absolute() / name, emoji, arguments.judgments, sections)
        found = run(world, arguments.cycles, names, arguments.workers)
        found |= {"date": date.today().isoformat(), "minutes": round((time.monotonic() - began) / 60, 1)}
        found |= {"judgments": ", ".join([arguments.judgments, *fresh, *changed]), "split": arguments.split}
        found |= {"seed": seed, "users": "simulated", "processor": platform.processor() or platform.machine()}
        found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        if not arguments.small:
            write_json(HERE / "evolution" / f"{name}.json", found)
    worlds = {file.stem: json.loads(file.read_text()) for file in sorted((HERE / "evolution").glob("*.json"))}
    explored = {name: world for name, world in worlds.items() if world["seed"] >= 100}
    confirmed = {name: world for name, world in worlds.items() if world["seed"] < 100}
    if worlds and not arguments.small:
        told = {"command": "python benchmarks/evolution.py DIRECTORY --seed S ...", "users": "simulated"}
        together = {
            name: world | {"judgments": "pool, three fresh splits"}
            for name, world in worlds.items()
            if name in TOGETHER
        }
        told |= {"summary": {"confirmed": headline(summary(confirmed)), "explored": headline(summary(explored))}}
        told["summary"]["together"] = headline(summary(together))
        write_json(HERE / "evolution.json", told)


if __name__ == "__main__":
    main()
