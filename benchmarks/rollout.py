"""How often a rollout promotes or takes back what it should not, and how soon it finds what it should.

    python benchmarks/rollout.py [--runs 10000] [--only NAME]

Users are simulated (``serm.worlds.simulator``): they read pages that a model with noisy scores ranks, and their clicks
become a log, which ``serm.rollout.metrics`` reads by user. Each run draws its users from that log with replacement, day
by day, along the whole ramp of params.yaml's defaults, and ``serm.rollout.decision.decide`` looks at them once a day,
as ``serm rollout tick`` would. The better and the worse challengers score with less and with more noise than the
champion. Each user comes on one day and makes three requests, whose latency is log-normal (median 15 ms) and read from
a histogram of ten bounds a decade, in the step and since the last look, as Prometheus tells it. Beside it, on the same
users, a fixed-horizon z test that is looked at daily. In the scenarios of users who return (``returning.py``) each of
200,000 comes as often, and is as easily satisfied, on all days; what they did in the 14 days before explains part of it
(CUPED). Each run is kept in runs/benchmarks/rollout/ as it ends, so that what was cut short goes on;
benchmarks/results/rollout.json is written after each scenario, and those that it holds are not run again with the same
--runs.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
from returning import SESSIONS_A_DAY, Returning
from rollout_scenarios import SCENARIOS, Scenario
from scipy.stats import norm

from serm import contracts, engine
from serm.rollout import look, metrics, prometheus
from serm.rollout.decision import Look, decide
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.settings import EngineSettings, RolloutSettings
from serm.worlds.simulator import Ranking, Users, simulate

RESULT = Path(__file__).parent / "results" / "rollout.json"
RUNS = Path("runs/benchmarks/rollout")
SETTINGS = RolloutSettings(before_days=0, watch_days=0)
START = datetime(2026, 1, 1, tzinfo=UTC)
POOL_SESSIONS, QUERIES, DEPTH, POSITIONS = 60_000, 400, 30, 10
BOUNDS = tuple(float(f"{one}e{power}") for power in (0, 1, 2, 3) for one in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8))
"""Of the latency's histogram, milliseconds; the last bucket has none."""
MEDIAN_MS, SPREAD, REQUESTS = 15.0, 0.5, 3
"""A request's latency: the median, and the deviation of its logarithm; and a user's requests."""
NOISE = 0.9
"""Standard deviation of the champion's scores around the hidden grades."""
SIDES: tuple[Variant, Variant] = ("challenger", "champion")
COLUMNS = sorted({n for m in SETTINGS.metrics for n in (metrics.METRICS[m].numerator, metrics.METRICS[m].denominator)})


@cache
def world() -> tuple[Any, Any, Any]:
    """Return the hidden grades, the noise (both [queries, documents]) and the queries' shares."""
    generator = np.random.default_rng(11)
    grades = generator.choice(4, (QUERIES, DEPTH), p=[0.55, 0.25, 0.13, 0.07])
    shares = np.arange(1, QUERIES + 1, dtype=float) ** -0.8
    return grades, generator.standard_normal(grades.shape), shares / shares.sum()


def ndcg(noise: float) -> float:
    """Return NDCG@10 of a model with this noise, over searches."""
    grades, draw, shares = world()
    gain, discount = 2.0**grades - 1, 1 / np.log2(np.arange(2, POSITIONS + 2))
    order = np.argsort(-(grades + noise * draw), axis=1)[:, :POSITIONS]
    found = (np.take_along_axis(gain, order, 1) * discount).sum(1)
    ideal = (-np.sort(-gain, 1)[:, :POSITIONS] * discount).sum(1)
    return float((shares * found / np.maximum(ideal, 1e-9)).sum())


@cache
def noise_for(difference: float) -> float:
    """Return the noise whose NDCG@10 differs from the champion's by ``difference``."""
    grid = np.linspace(0.2, 2.5, 2301)
    return float(grid[np.argmin([abs(ndcg(noise) - ndcg(NOISE) - difference) for noise in grid])])


@dataclass(frozen=True)
class Pool:
    """Simulated users of a model. Many are alike: each kind stands there once, with its share."""

    kinds: Any
    """float [kinds, columns of COLUMNS and their products]"""
    shares: Any
    """float [kinds], sums to 1"""

    def drawn(self, count: int, generator: np.random.Generator) -> Any:
        """Return the sums over ``count`` users, drawn with replacement."""
        return generator.multinomial(max(count, 0), self.shares) @ self.kinds

    def value(self, metric: str) -> float:
        """Return a metric over all of them."""
        one = metrics.METRICS[metric]
        sums = self.shares @ self.kinds
        return float(sums[COLUMNS.index(one.numerator)] / sums[COLUMNS.index(one.denominator)])


@cache
def ndcg_for(lift: float) -> float:
    """Return the difference in NDCG@10 at which the simulated users have this lift in satisfied clicks."""
    low, high = 0.0, 0.12
    while high - low > 1e-4:
        middle = (low + high) / 2
        found = pool(middle, 1).value("satisfied_clicks") / pool(0.0, 1).value("satisfied_clicks") - 1
        low, high = (middle, high) if found < lift else (low, middle)
    return high


@cache
def pool(difference: float, seed: int, of: str = "user_id") -> Pool:
    """Return the simulated users of a model whose NDCG@10 differs from the champion's by ``difference``.

    With ``of`` "session_id" each session counts as a user.
    """
    grades, draw, shares = world()
    names = np.array([f"q{n}" for n in range(QUERIES)])
    ids = np.array([[f"d{q}-{d}" for d in range(DEPTH)] for q in range(QUERIES)])
    ranking = Ranking(
        names,
        np.repeat("en", QUERIES),
        ids,
        np.full(grades.shape, np.datetime64("2025-01-01", "us")),
        grades + noise_for(difference) * draw if difference else grades + NOISE * draw,
        "simulated",
    )
    log = simulate(
        ranking,
        grades,
        shares,
        np.roll(np.arange(QUERIES), 7),
        window=(START, START + timedelta(days=7)),
        name=f"p{seed}",
        sessions=POOL_SESSIONS,
        positions=POSITIONS,
        exploration=0.0,
        users=Users(),
        generator=np.random.default_rng(seed),
    )
    at = log.schema.get_field_index("variant")
    log = log.set_column(at, "variant", pa.repeat("control", len(log)))
    log = log.set_column(log.schema.get_field_index("user_id"), "user_id", log[of]).cast(contracts.IMPRESSIONS)
    with engine.connect(EngineSettings(threads=1, memory_gb=2)) as connection:
        users = connection.to_pyarrow(look.of_log(ibis.memtable(log), [START], START + timedelta(days=8), SETTINGS))
    values = np.stack([users[name].to_numpy() for name in COLUMNS], axis=1)
    pairs = [(a, b) for a in range(len(COLUMNS)) for b in range(a, len(COLUMNS))]
    kinds, counts = np.unique(values, axis=0, return_counts=True)
    products = np.stack([kinds[:, a] * kinds[:, b] for a, b in pairs], axis=1)
    return Pool(np.concatenate([kinds, products], axis=1), counts / counts.sum())


@dataclass
class Servers:
    """What a server's metrics tell: requests by latency, and those that failed."""

    counts: Any
    """int [buckets]"""
    errors: int

    @classmethod
    def draw(cls, users: int, latency: float, errors: float, generator: np.random.Generator) -> Servers:
        """Return what so many users' requests leave there."""
        lower = norm.cdf(np.log(np.array(BOUNDS) / (MEDIAN_MS * latency)) / SPREAD)
        shares = np.diff(np.concatenate([[0.0], lower, [1.0]]))
        return cls(generator.multinomial(REQUESTS * users, shares), int(generator.binomial(REQUESTS * users, errors)))

    def __add__(self, other: Servers) -> Servers:
        return Servers(self.counts + other.counts, self.errors + other.errors)

    def health(self) -> Health:
        """Return it as a look has it."""
        within = tuple(zip((*BOUNDS, math.inf), np.cumsum(self.counts).tolist(), strict=True))
        return Health(within[-1][1], self.errors, prometheus._percentile(within), within)


NAMES = [*COLUMNS, *(f"{a}*{b}" for i, a in enumerate(COLUMNS) for b in COLUMNS[i:])]


class Newcomers:
    """Users who come on one day, all that they do there; nobody's habits are known."""

    def __init__(self, scenario: Scenario, challenger: Pool, champion: Pool, generator: np.random.Generator) -> None:
        self._scenario, self._pools, self._generator = scenario, (challenger, champion), generator
        self._sums: list[Any] = []
        self._counts: list[Any] = []

    def come(self, percent: int, stage: int) -> Any:
        """Let a day's users come, and return how many of the challenger's and of the control's came."""
        if stage == len(self._sums):
            self._sums.append(np.zeros((2, len(NAMES))))
            self._counts.append(np.zeros(2, int))
        sizes = self._generator.binomial(self._scenario.new_users, percent / 100, 2)
        sizes[0] = self._generator.binomial(sizes[0], 1 - self._scenario.lost_users)
        self._sums[-1] += [pool.drawn(size, self._generator) for pool, size in zip(self._pools, sizes, strict=True)]
        self._counts[-1] += sizes
        return sizes

    def rows(self) -> list[dict[str, Any]]:
        """Return what ``metrics.moments`` would; all that is of before the start is 0."""
        return [
            defaultdict(float, zip(NAMES, value, strict=True), stage=stage, challenger=side == 0, n=int(counts[side]))
            for stage, (both, counts) in enumerate(zip(self._sums, self._counts, strict=True))
            for side, value in enumerate(both)
        ]


def run(scenario: Scenario, challenger: Pool, champion: Pool, seed: int) -> dict[str, Any]:
    """Go along the ramp once, a look a day."""
    generator = np.random.default_rng([seed, 5])
    users: Newcomers | Returning
    if scenario.returning:
        sides = [(one.kinds[:, : len(COLUMNS)], one.shares) for one in (challenger, champion)]
        users = Returning(COLUMNS, sides, SETTINGS.winsorise, scenario.habits, generator)
    else:
        users = Newcomers(scenario, challenger, champion, generator)
    percent, since, at, looks, stage = SETTINGS.steps[0], START, START, 0, 0
    step: list[Servers] = []
    peeked = False
    while True:
        at += timedelta(days=1)
        came = users.come(percent, stage)
        rows = users.rows()
        found = look.estimates(rows, SETTINGS)
        drawn = [
            Servers.draw(int(came[0]), scenario.latency, scenario.errors, generator),
            Servers.draw(int(came[1]), 1.0, 0.0, generator),
        ]
        step = [before + now for before, now in zip(step, drawn, strict=True)] if step else drawn
        health, recent = (dict(zip(SIDES, [one.health() for one in both], strict=True)) for both in (step, drawn))
        counts = look.counts(rows, stage + 1)
        seen = Look(at, percent, START, since, counts, 0, found, health, looks=looks, recent=recent if looks else None)
        looks += 1
        decision = decide(seen, SETTINGS)
        primary = found.get(SETTINGS.primary[0])
        peeked |= primary is not None and abs(primary.difference) > 1.959964 * primary.variance**0.5
        if decision.action == "advance":
            percent, since, looks, step, stage = decision.percent, at, 0, [], stage + 1
        elif decision.action != "hold":
            return {
                "end": decision.action,
                "days": (at - START) / timedelta(days=1),
                "challenged": sum(count for count, _ in counts),
                "peeked": peeked,
                "explained": round(primary.explained, 4) if primary is not None else 0.0,
            }


def ended(name: str, runs: int, challenger: Pool, champion: Pool) -> list[dict[str, Any]]:
    """Return how each of ``runs`` rollouts ended; those that were run before are read."""
    kept = RUNS / f"{name.replace('/', '')}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text().splitlines(keepends=True) if kept.exists() else []
    known = [json.loads(line) for line in lines if line.endswith("\n")][:runs]
    with kept.open("w") as file:
        file.writelines(json.dumps(one) + "\n" for one in known)
        for seed in range(len(known), runs):
            began = time.perf_counter()
            known.append(run(SCENARIOS[name], challenger, champion, seed))
            known[-1]["seconds"] = round(time.perf_counter() - began, 4)
            file.write(json.dumps(known[-1]) + "\n")
            file.flush()
    return known


def measure(name: str, runs: int) -> dict[str, Any]:
    """Run a scenario ``runs`` times."""
    scenario = SCENARIOS[name]
    difference = ndcg_for(scenario.lift) if scenario.lift else scenario.ndcg
    of = "session_id" if scenario.returning else "user_id"
    champion, challenger = pool(0.0, 1, of), pool(difference, 1, of)
    if scenario.lost_clicks:
        challenger = without_clicks(challenger)
    found = ended(name, runs, challenger, champion)
    ends = [one["end"] for one in found]
    return {
        "runs": runs,
        "ends": {end: ends.count(end) / runs for end in sorted(set(ends))},
        "days": quantiles([one["days"] for one in found]),
        "users_who_saw_it": quantiles([one["challenged"] for one in found]),
        "fixed_horizon_peeking": float(np.mean([one["peeked"] for one in found])),
        "relative_differences": {m: round(challenger.value(m) / champion.value(m) - 1, 5) for m in SETTINGS.metrics},
        "ndcg": round(difference, 5),
        **(
            {
                "variance_explained_by_habits": round(float(np.mean([one["explained"] for one in found])), 4),
                "sessions_a_day": SESSIONS_A_DAY,
            }
            if scenario.returning
            else {"new_users_a_day": scenario.new_users}
        ),
        "seconds": round(sum(one["seconds"] for one in found), 1),
    }


CLICKS = {"with_click", "with_satisfied", "first_click"}


def without_clicks(challenger: Pool) -> Pool:
    """Return its users as a log has them that lost all clicks: every search is abandoned."""
    kinds = challenger.kinds.copy()
    kinds[:, [i for i, n in enumerate(NAMES) if n.split("*")[0] in CLICKS or n.split("*")[-1] in CLICKS]] = 0
    for other in ("abandoned*abandoned", "abandoned*searches"):
        kinds[:, NAMES.index(other)] = kinds[:, NAMES.index("searches*searches")]
    kinds[:, NAMES.index("abandoned")] = kinds[:, NAMES.index("searches")]
    return Pool(kinds, challenger.shares)


def quantiles(values: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the most."""
    return {"median": float(np.median(values)), "p99": float(np.quantile(values, 0.99)), "most": float(max(values))}


def summary(scenarios: dict[str, Any]) -> dict[str, str]:
    """Return each scenario's figures as a sentence, by a name that people read."""
    words = {
        "promote": "promoted",
        "roll_back": "rolled back",
        "inconclusive": "inconclusive",
        "error": "found broken (sample ratio)",
    }
    told = {}
    for name, one in scenarios.items():
        ends = ", ".join(f"{words[end]} {share:.1%}" for end, share in sorted(one["ends"].items(), key=lambda e: -e[1]))
        days, users = one["days"], one["users_who_saw_it"]
        told["the champion itself (A/A)" if name == "A/A" else name] = (
            f"{ends} of {one['runs']:,} rollouts; {days['median']:g} days at the median, {days['p99']:g} in 99 of 100; "
            f"{users['median']:,.0f} users saw it at the median, {users['p99']:,.0f} in 99 of 100"
        )
    if (same := scenarios.get("A/A")) is not None:
        told["the champion itself, by a z test at p < .05 that is looked at daily"] = (
            f"called different in {same['fixed_horizon_peeking']:.1%}"
        )
    return told


def main() -> None:
    """Run what is missing, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--only", choices=SCENARIOS)
    chosen = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"scenarios": {}}
    for name, scenario in SCENARIOS.items():
        runs = max(100, round(chosen.runs * scenario.share_of_runs))
        if chosen.only not in (None, name) or result["scenarios"].get(name, {}).get("runs") == runs:
            continue
        measured = measure(name, runs)
        known = {**result["scenarios"], name: measured}
        result = {
            "summary": summary({one: known[one] for one in SCENARIOS if one in known}),
            "users": "simulated",
            "date": f"{date.today()}",
            "settings": SETTINGS.model_dump(mode="json"),
            "scenarios": {one: known[one] for one in SCENARIOS if one in known},
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(name, json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
