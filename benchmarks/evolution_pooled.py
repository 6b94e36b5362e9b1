"""What ``benchmarks/evolution.py`` makes of its worlds: paired differences between arms, pooled over the seeds.

A world keeps of each comparison only the number of queries, the mean difference and its standard deviation over
queries. So a summary can be made of worlds that were run on other days, without their models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHALLENGER, ITS_CHAMPION = "SERM's challenger", "its champion"
HARDEST = "short replay beside anchors"
"""The strongest replay that was found."""
PROMOTED = "each challenger promoted"
LOOKED_UP = "labels looked up, else {}"
"""SERM's labels so far as a table that ranks, and a model where it has no label."""
SERVED = "labels beside SERM"
"""SERM's labels so far and its champion, as its transformer ranks by both (``--judgments``)."""
BEFORE = "labels and champion of before"
"""What ranked in the window of a cycle, had SERM's labels been served beside its champion then."""
SPOILT = "labels {:.0%} right, errors {}, beside SERM"
"""True labels in the place of SERM's, but for a share that is wrong."""
RIGHT, ERRORS = (0.9, 0.8, 0.7, 0.6), ("at random", "as the champion")
AGAINST = ("static", "replay", HARDEST, "self-training", ITS_CHAMPION, BEFORE)
"""What arms are compared with, where a world has it."""
ALONE = {ITS_CHAMPION: CHALLENGER, BEFORE: SERVED}
"""What one arm alone is compared with, and that arm."""
DECIDES = "rolling served"
SHARED = 0.2
"""More than the share of its test queries that a world has in common with one of another ``--split``: each query is
drawn with 15 % in both, whatever the other; 13 to 18 % were counted."""
ASKED = "asked next"
"""What users ask in the window after a cycle: the cycle's models have learnt from earlier windows alone."""


@dataclass(frozen=True)
class Measured:
    """What the models of all arms made of one test set after one cycle."""

    of: str
    """The test set, such as ``rolling served``."""
    slices: Mapping[str, Floats]
    """Name -> [n], what each of the n queries weighs in it, 0 or more; ``all`` is among them."""
    values: Mapping[str, Mapping[str, Floats]]
    """Arm -> measure -> [n], 0 to 1."""


def differences(measured: Measured) -> dict[str, str]:
    """Compare each arm with each control: ``arm over control, measure, slice`` -> ``n mean deviation``.

    A query that a measure is not defined on (not a number) is left out; slices other than ``all`` are of the rolling
    served lists, on which the gate decides, and of what is asked next. Where queries weigh differently, mean and
    deviation are such that ``deviation / √n`` is the standard error of the weighted mean.
    """
    found = {}
    for arm, by_measure in measured.values.items():
        for against in AGAINST:
            if against == arm or against not in measured.values or arm in ALONE or ALONE.get(against, arm) != arm:
                continue
            for measure, values in by_measure.items():
                difference = values - measured.values[against][measure]
                for name, weights in measured.slices.items():
                    rows = (weights > 0) & np.isfinite(difference)
                    if rows.sum() > 1 and (name == "all" or measured.of in (DECIDES, ASKED)):
                        told = _weighed(difference[rows], weights[rows])
                        found[f"{arm} over {against} | {measure} | {name}"] = told
    return found


def _weighed(values: Floats, weights: Floats) -> str:
    """Return ``n mean deviation``; with equal weights the usual ones.

    By the jackknife: a query that has much of the weight draws the mean to itself, which the plain formula takes for a
    small error.
    """
    n, shares = len(values), weights / weights.sum()
    mean = float((shares * values).sum())
    deviation = np.sqrt((n - 1) * ((shares * (values - mean) / (1 - shares)) ** 2).sum())
    return f"{n} {mean:.6f} {deviation:.6f}"


def pooled(told: Iterable[str], splits: Sequence[int], shared: float) -> dict[str, Any]:
    """Pool one comparison (``n mean deviation`` a world), each query weighing alike.

    The interval (95 %) and p (two-sided) are of the normal approximation over queries, worlds fixed. Users of one query
    are alike, so worlds are taken to err together on all queries that they share, which bounds the error whatever their
    dependence. ``seeds`` and ``deviation_of_seeds`` show how much worlds differ.

    Args:
        told: what each world keeps.
        splits: each world's draw of the test queries; worlds of one draw have all of them in common.
        shared: the share of its queries, 0 to 1, that a world has in common with one of another draw, at most.
    """
    n, mean, spread = np.array([one.split() for one in told], float).T
    difference = float((n * mean).sum() / n.sum())
    errors = np.sqrt(n) * spread / n.sum()
    error = float(np.sqrt(errors @ np.where(np.equal.outer(splits, splits), 1.0, shared) @ errors))
    z = difference / error if error else 0.0
    return {
        "difference": round(difference, 4),
        "low": round(difference - 1.96 * error, 4),
        "high": round(difference + 1.96 * error, 4),
        "p": float(f"{erfc(abs(z) / sqrt(2)):.2g}"),
        "queries": int(n.sum()),
        "seeds": [round(float(one), 4) for one in mean],
        **({"deviation_of_seeds": round(stdev(mean.tolist()), 4)} if len(mean) > 1 else {}),
    }


def summary(worlds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pool all comparisons of the ``worlds`` (name -> what the run kept), by shape of their seed judgments.

    Returns:
        shape -> cycle -> set -> measure -> slice -> ``arm over control`` -> ``pooled``; only comparisons that every
        world of the shape has at that cycle.
    """
    found: dict[str, Any] = {}
    for shape in sorted({world["judgments"] for world in worlds.values()}):
        every = [world for world in worlds.values() if world["judgments"] == shape]
        of_shape = [world["differences"] for world in every]
        splits = [world.get("split", 1) for world in every]
        for cycle in sorted(set.intersection(*(set(world) for world in of_shape))):
            for of in of_shape[0][cycle]:
                sets = [world[cycle].get(of, {}) for world in of_shape]
                for key in sets[0]:
                    if all(key in one for one in sets):
                        arms, measure, name = key.split(" | ")
                        place = found.setdefault(f"{shape} seed judgments", {}).setdefault(f"cycle {cycle}", {})
                        place = place.setdefault(of, {}).setdefault(measure, {}).setdefault(name, {})
                        place[arms] = pooled((one[key] for one in sets), splits, 1.0 if of == ASKED else SHARED)
    return found


def headline(pooled: Mapping[str, Any]) -> dict[str, str]:
    """Return of a ``summary`` what the goals are about, in words: difference, 95 % interval, p and queries."""
    told = {}
    for shape, cycles in pooled.items():
        last = [*cycles][-1]
        asked = [(cycle, DECIDES, "all", CHALLENGER, ITS_CHAMPION) for cycle in cycles]
        asked += [(last, DECIDES, "all", "SERM", against) for against in AGAINST if against != ITS_CHAMPION]
        asked += [(last, DECIDES, "all", CHALLENGER, "static")]
        asked += [(last, of, "all", "SERM", "static") for of in ("rolling pool", "frozen served", "frozen pool")]
        arms = {key.split(" over ")[0] for key in cycles[last][DECIDES]["NDCG@10"]["all"]} - {"SERM", CHALLENGER}
        asked += [(last, of, "all", arm, "static") for of in (DECIDES, "rolling pool") for arm in sorted(arms)]
        families = cycles[last][DECIDES]["NDCG@10"]
        asked += [(last, DECIDES, name, "SERM", "static") for name in families if name != "all"]
        for cycle in cycles:
            for name in cycles[cycle].get(ASKED, {}).get("NDCG@10", {}):
                alone = [CHALLENGER, PROMOTED, SERVED, *(LOOKED_UP.format(one) for one in ("static", "SERM"))]
                alone += [SPOILT.format(right, errs) for right in RIGHT for errs in ERRORS if name == "all"]
                pairs = [*((arm, before) for before, arm in ALONE.items()), *(("SERM", one) for one in AGAINST)]
                pairs += [(arm, "static") for arm in alone]
                asked += [(cycle, ASKED, name, arm, against) for arm, against in pairs]
        for cycle, of, name, arm, against in asked:
            for measure in ("NDCG@1", "NDCG@10"):
                one = cycles[cycle][of][measure].get(name, {}).get(f"{arm} over {against}")
                if one:
                    interval = f"{one['low']:+.3f} to {one['high']:+.3f}, p {one['p']:.2g}"
                    interval += f", {one['queries']} queries of all worlds"
                    where = f"{shape}, {cycle}, {of}" + ("" if name == "all" else f", {name}")
                    told[f"{where}: {arm} over {against}, {measure}"] = f"{one['difference']:+.4f} ({interval})"
    return told
