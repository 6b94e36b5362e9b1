"""How many users interleaving needs to tell which model they prefer, beside A/B on users of the same world.

    python benchmarks/interleaving.py [--runs 100]

Users, queries and models are simulated as in benchmarks/rollout.py: each user searches once. Interleaved users see one
page of both models (``team_draft``) and their clicks are credited; A/B's see a page of one, and satisfied searches are
compared. Both are looked at after each tenth more users with the same confidence sequence, until the interval leaves 0
out. Writes benchmarks/results/interleaving.json.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rollout import NOISE, POSITIONS, QUERIES, noise_for, world

from serm.rollout.interleaving import credit, preference, team_draft
from serm.rollout.sequence import Interval, prior_variance
from serm.worlds.simulator import Users, browse

RESULT = Path(__file__).parent / "results" / "interleaving.json"
ALPHA, PLANNED = 0.05, 2000
LOOKS = np.unique(np.geomspace(100, 400_000, 90).astype(int))
MOST_INTERLEAVED, MOST_BY_LOT = 20_000, 3000


def interleaved(lists: Any, grades: Any, shares: Any, generator: Any, run: int, most: int, lot: bool) -> int | None:
    """Return the users seen when the preference is certain, None where it never was, and its sign in the number's.

    With ``lot`` each user's models change names by a coin, so that there is no preference to find.
    """
    credits: dict[str, list[int]] = {}
    for look in LOOKS[most >= LOOKS]:
        query = generator.choice(QUERIES, look - len(credits), p=shares)
        shown = [
            team_draft(lists[0][q], lists[1][q], f"{run}-{len(credits) + n}", POSITIONS) for n, q in enumerate(query)
        ]
        pages = np.array([[grades[q, int(one.doc_id)] for one in page] for q, page in zip(query, shown, strict=True)])
        clicked = browse(pages, Users(), generator).clicked
        for page, clicks in zip(shown, clicked, strict=True):
            chosen = [one.doc_id for one, click in zip(page, clicks, strict=True) if click]
            side = generator.choice((-1, 1)) if lot else 1
            credits[str(len(credits))] = [int(side) * credit(page, chosen)]
        found = preference(credits, ALPHA, PLANNED)
        if not found.low <= 0 <= found.high:
            return int(look if found.low > 0 else -look)
    return None


def compared(orders: Any, grades: Any, shares: Any, generator: Any) -> int | None:
    """Return the users of both groups together when A/B is certain, as ``interleaved`` does."""
    sums, n = np.zeros(2), 0
    for look in LOOKS:
        more = look // 2 - n
        for side in (0, 1):
            query = generator.choice(QUERIES, more, p=shares)
            page = np.take_along_axis(grades[query], orders[side][query], axis=1)
            did = browse(page, Users(), generator)
            sums[side] += (did.clicked & (np.nan_to_num(did.dwell) >= 30)).any(axis=1).sum()
        n += more
        rates = sums / n
        variance = float((rates * (1 - rates)).sum() / n)
        prior = prior_variance(variance * n / PLANNED, ALPHA) if variance > 0 else 1.0
        found = Interval.of(float(rates[1] - rates[0]), variance, prior, ALPHA)
        if not found.low <= 0 <= found.high:
            return int(2 * n if found.low > 0 else -2 * n)
    return None


def measure(difference: float, runs: int) -> dict[str, Any]:
    """Run both ``runs`` times on models whose NDCG@10 differs."""
    grades, noise, shares = world()
    scores = [grades + level * noise for level in (NOISE, noise_for(difference))]
    orders = [np.argsort(-one, axis=1)[:, :POSITIONS] for one in scores]
    lists = [[[str(doc) for doc in row] for row in order] for order in orders]
    generators = [np.random.default_rng([run, 3]) for run in range(runs)]
    both = {
        "interleaved": [
            interleaved(lists, grades, shares, g, run, MOST_INTERLEAVED, False) for run, g in enumerate(generators)
        ],
        "interleaved, names by lot": [
            interleaved(lists, grades, shares, g, run, MOST_BY_LOT, True) for run, g in enumerate(generators)
        ],
        "A/B": [compared(orders, grades, shares, g) for g in generators],
    }
    return {name: summary(found) for name, found in both.items()}


def summary(found: list[int | None]) -> dict[str, Any]:
    """Return how often each was preferred, and the users that it took where it was told."""
    told = [abs(one) for one in found if one is not None]
    return {
        "challenger": sum(one is not None and one > 0 for one in found) / len(found),
        "champion": sum(one is not None and one < 0 for one in found) / len(found),
        "median_users": float(np.median(told)) if told else None,
        "runs": len(found),
    }


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    result = {f"{difference:+.2f} NDCG@10": measure(difference, runs) for difference in (0.01, 0.02, -0.02)}
    print(json.dumps(result, indent=2))
    kept = {"date": f"{date.today()}", "users": "simulated", "alpha": ALPHA, "results": result}
    RESULT.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
