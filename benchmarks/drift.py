"""How often the drift tests alarm though nothing changed, and how often they see what did: simulated users.

    python benchmarks/drift.py WORKSPACE --splits 100 --repetitions 20

WORKSPACE is that of ``serm demo`` (or any founded emoji world) at cycle 1: its reference window is the log that is
split, and its first window lends users of a new locale. In each A/A split the users fall into halves at random; one
half plays the earlier window (or they fall into four quarters, and three play earlier windows). A shift is injected
into the other half. Evidently, which decides nothing, is left out, and so is the catalogue, which no chance moves.
Writes benchmarks/results/drift.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest

from serm import contracts, relevance
from serm import engine as engines
from serm.atomic import write_json
from serm.drift import heavy_users, sample
from serm.drift.decision import DriftTest, decided
from serm.drift.drift import exchange
from serm.settings import DriftSettings, EngineSettings
from serm.worlds.emoji import LAUNCHES, EmojiWorld

RESULTS = Path(__file__).parent / "results" / "drift.json"
SETTINGS = DriftSettings()
Inject = Callable[[pa.Table, np.random.Generator], pa.Table]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bench = Bench(arguments.workspace)
    began = time.monotonic()
    results: dict[str, Any] = {
        "command": f"python benchmarks/drift.py WORKSPACE --splits {arguments.splits} "
        f"--repetitions {arguments.repetitions}",
        "date": date.today().isoformat(),
        "users": "simulated",
        "log": bench.describe(),
        "settings": SETTINGS.model_dump(),
        "a/a": {},
        "shifts": {},
    }
    for earlier, name in ((1, "1 earlier window"), (3, "3 earlier windows")):
        runs = [bench.run(seed, earlier=earlier) for seed in range(arguments.splits)]
        results["a/a"][name] = _summary(runs)
        write_json(arguments.out, results)
        print(name, json.dumps(results["a/a"][name]), flush=True)
    for name, inject in bench.shifts().items():
        runs = [bench.run(1000 + seed, inject) for seed in range(arguments.repetitions)]
        results["shifts"][name] = _summary(runs)
        print(name, json.dumps(results["shifts"][name]), flush=True)
        results["minutes"] = round((time.monotonic() - began) / 60, 1)
        write_json(arguments.out, results)


class Bench:
    """One log, its splits and what is injected into them."""

    def __init__(self, workspace: Path) -> None:
        self.log = contracts.read(workspace / "state" / "reference", contracts.IMPRESSIONS)
        self.later = contracts.read(workspace / "cycle" / "validate" / "impressions", contracts.IMPRESSIONS)
        self.users = np.array(sorted(set(self.log["user_id"].to_pylist())))
        self._encoder = relevance.load(workspace / "state" / "champion").encoder
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._new = self._new_queries()

    def describe(self) -> dict[str, int]:
        """Return the log's size."""
        return {
            "users": len(self.users),
            "searches": pc.count_distinct(self.log["query_id"]).as_py(),
            "impressions": len(self.log),
        }

    def run(self, seed: int, inject: Inject | None = None, earlier: int = 1) -> list[DriftTest]:
        """Split the users into ``earlier`` + 1 equal windows, inject a shift into the last, and test it."""
        rng = np.random.default_rng(seed)
        parts = np.array_split(rng.permutation(self.users), earlier + 1)
        *before, now = (self.log.filter(pc.is_in(self.log["user_id"], pa.array(part))) for part in parts)
        if inject:
            now = inject(now, rng)
        settings = SETTINGS.model_copy(update={"seed": seed})
        with engines.connect(EngineSettings()) as engine:
            tables = []
            for cycle, table in enumerate((*before, now)):
                engine.con.register(f"split{cycle}", table)
                tables.append(engine.table(f"split{cycle}"))
            drawn = [sample.draw_users(table, cycle, settings) for cycle, table in enumerate(tables)]
            clicks = [heavy_users.clicks_of_users(table) for table in tables[-2:]]
        tests, _ = exchange(sample.together(drawn[:-1], drawn[-1]), self.embed, settings)
        return decided([*tests, heavy_users.test_heaviest(clicks[0], clicks[1], settings)], settings.alpha)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed with the champion's encoder, each text once in all runs."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            self._vectors.update(zip(new, self._encoder.embed(new, "query"), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def shifts(self) -> dict[str, Inject]:
        """Return what can be injected, by name."""
        return {
            "a new locale, 2 % of searches": lambda log, rng: self.new_locale(log, rng, 0.02),
            "a new locale, 10 % of searches": lambda log, rng: self.new_locale(log, rng, 0.10),
            "new-topic queries, 0.5 % of searches": lambda log, rng: self.new_topic(log, rng, 0.005),
            "new-topic queries, 1 % of searches": lambda log, rng: self.new_topic(log, rng, 0.01),
            "new-topic queries, 5 % of searches": lambda log, rng: self.new_topic(log, rng, 0.05),
            "new-topic queries, 10 % of searches": lambda log, rng: self.new_topic(log, rng, 0.10),
            "scoring bug: 5 % of searches scored 0": lambda log, rng: zero_scores(log, rng, 0.05),
            "scoring bug: all scores 10 % too low": lambda log, rng: _set(log, "score", pc.multiply(log["score"], 0.9)),
            "click bot: 1 user, 400 clicks": lambda log, rng: self.bot(log, rng, 1, 40),
            "click bot: 5 users, 300 clicks each": lambda log, rng: self.bot(log, rng, 5, 30),
            "one click in twenty not logged": lambda log, rng: lost_clicks(log, rng, 0.05),
            "one click in ten not logged": lambda log, rng: lost_clicks(log, rng, 0.1),
        }

    def new_locale(self, log: pa.Table, rng: np.random.Generator, share: float) -> pa.Table:
        """Add users of a locale that launched later, until they make ``share`` of the searches."""
        theirs = self.later.filter(pc.equal(self.later["locale"], "nl"))
        wanted = pc.count_distinct(log["query_id"]).as_py() * share / (1 - share)
        searches = theirs.group_by("user_id").aggregate([("query_id", "count_distinct")])
        searches = searches.take(pa.array(rng.permutation(len(searches))))
        enough = np.cumsum(searches["query_id_count_distinct"].to_numpy()) <= wanted
        users = searches["user_id"].filter(pa.array(enough))
        added = theirs.filter(pc.is_in(theirs["user_id"], users))
        version = pa.repeat(log["model_version"][0].as_py(), len(added))
        return pa.concat_tables([log, _set(added, "model_version", version)])

    def new_topic(self, log: pa.Table, rng: np.random.Generator, share: float) -> pa.Table:
        """Turn ``share`` of the searches into ones for queries that came with later Unicode releases."""
        ids, code = np.unique(log["query_id"].to_pylist(), return_inverse=True)
        turned = rng.random(len(ids)) < share
        locales = np.array(log["locale"].to_pylist())
        of_search = np.empty(len(ids), locales.dtype)
        of_search[code] = locales
        turned &= np.array([bool(self._new[locale]) for locale in of_search])
        queries = np.array([rng.choice(self._new[locale] or [""]) for locale in of_search])
        asked = np.where(turned[code], queries[code], np.array(log["query"].to_pylist()))
        return _set(log, "query", pa.array(asked.tolist()))

    def _new_queries(self) -> dict[str, list[str]]:
        """Return, for each locale of the log, keywords of one emoji that no emoji had before it.

        It is the emoji with such keywords in the most locales, and then with the most.
        """
        world = EmojiWorld()
        truth = world.truth
        known = set(zip(self.log["locale"].to_pylist(), self.log["query"].to_pylist(), strict=True))
        unknown = np.array([pair not in known for pair in zip(truth.locales, truth.queries, strict=True)])
        old = truth.listed[:, truth.years <= 2016].any(axis=1)
        about = truth.listed & (unknown & ~old)[:, None]
        per_locale = np.array([about[truth.locales == locale].sum(axis=0) for locale in LAUNCHES[0]])
        emoji = int(np.lexsort((per_locale.sum(axis=0), (per_locale > 0).sum(axis=0)))[-1])
        return {
            locale: truth.queries[about[:, emoji] & (truth.locales == locale)].tolist()[:5] for locale in LAUNCHES[0]
        }

    def bot(self, log: pa.Table, rng: np.random.Generator, users: int, searches: int) -> pa.Table:
        """Let each of some users repeat ``searches`` pages of the log, and click each of their ten documents."""
        pages = log.filter(pc.equal(log["position"], 10))["query_id"]
        added = []
        for user in range(users):
            drawn = pa.array(rng.choice(pages.to_numpy(zero_copy_only=False), searches, replace=False))
            rows = log.filter(pc.is_in(log["query_id"], drawn))
            rows = _set(rows, "query_id", pc.binary_join_element_wise(rows["query_id"], f"bot{user}", "-"))
            rows = _set(rows, "user_id", pa.repeat(f"bot{user}", len(rows)))
            rows = _set(rows, "clicked", pa.repeat(True, len(rows)))
            added.append(_set(rows, "dwell_seconds", pa.repeat(1.0, len(rows))))
        return pa.concat_tables([log, *added])


def zero_scores(log: pa.Table, rng: np.random.Generator, share: float) -> pa.Table:
    """Score ``share`` of the searches 0."""
    ids, code = np.unique(log["query_id"].to_pylist(), return_inverse=True)
    wrong = (rng.random(len(ids)) < share)[code]
    return _set(log, "score", pa.array(np.where(wrong, 0.0, log["score"].to_numpy())))


def lost_clicks(log: pa.Table, rng: np.random.Generator, share: float) -> pa.Table:
    """Lose ``share`` of the clicks."""
    clicked = log["clicked"].to_numpy() & (rng.random(len(log)) >= share)
    return _set(log, "clicked", pa.array(clicked))


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(
        index, contracts.IMPRESSIONS.field(name), values.cast(contracts.IMPRESSIONS.field(name).type)
    )


def _summary(runs: list[list[DriftTest]]) -> dict[str, Any]:
    """Return the rate of runs with an alarm, its interval (Clopper and Pearson), and how often each test alarmed."""
    by_test = Counter(one.name for run in runs for one in run if one.decision == "drift")
    alarms = sum(any(one.decision == "drift" for one in run) for run in runs)
    significant = sum(any((one.adjusted_p or 1) <= SETTINGS.alpha for one in run) for run in runs)
    return {
        "runs": len(runs),
        **{f"alarm_{name}": value for name, value in _rate(alarms, len(runs)).items()},
        "significant_before_floors": _rate(significant, len(runs)),
        "by_test": {name: round(by_test[name] / len(runs), 3) for name in sorted({one.name for one in runs[0]})},
    }


def _rate(count: int, runs: int) -> dict[str, float]:
    interval = binomtest(count, runs).proportion_ci(method="exact")
    return {"rate": round(count / runs, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


if __name__ == "__main__":
    main()
