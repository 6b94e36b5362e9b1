"""How long significance takes for many queries, beside scipy's permutation_test and bootstrap on the same numbers.

    python benchmarks/significance.py

Differences of an NDCG are simulated: a third of the queries are ranked alike by both models (0), the others differ by
a normal draw. Each peer does the same work on one column: the two-sided paired randomisation test (scipy: ``samples``)
and the 95 % percentile interval. scipy gets batches that hold as many numbers as ours do at once. At the largest size
it runs a tenth of the resamples, and its time is given for those. Writes benchmarks/results/significance.json.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from serm.evaluation import significance

RESULT = Path(__file__).parent / "results" / "significance.json"
RESAMPLES = 10_000
SEED = 2016


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that ``run`` takes, and its result."""
    start = time.perf_counter()
    found = run()
    return round(time.perf_counter() - start, 3), found


def measure(queries: int, measures: int, peer_resamples: int) -> dict[str, Any]:
    """Time both for ``queries`` queries: ours on ``measures`` columns and on one, scipy on one."""
    rng = np.random.default_rng(SEED)
    differences = rng.normal(0.0005, 0.1, (queries, measures)) * (rng.random((queries, 1)) > 1 / 3)
    one = differences[:, :1]
    batch = max(1, significance._CELLS // queries)

    def peer_p() -> float:
        found = stats.permutation_test(
            (one[:, 0], np.zeros(queries)),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=peer_resamples,
            batch=batch,
            rng=SEED,
        )
        return float(found.pvalue)

    def peer_interval() -> tuple[float, float]:
        found = stats.bootstrap(
            (one[:, 0],), np.mean, n_resamples=peer_resamples, batch=batch, method="percentile", rng=SEED
        )
        return float(found.confidence_interval.low), float(found.confidence_interval.high)

    times: dict[str, Any] = {"queries": queries, "resamples": RESAMPLES, "peer_resamples": peer_resamples}
    times["test_seconds"], p = timed(lambda: significance.randomisation_p(one, RESAMPLES, SEED))
    times["interval_seconds"], ends = timed(lambda: significance.bootstrap_interval(one, RESAMPLES, 0.95, SEED))
    times[f"test_of_{measures}_seconds"], _ = timed(lambda: significance.randomisation_p(differences, RESAMPLES, SEED))
    times["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    times["scipy_test_seconds"], peer = timed(peer_p)
    times["scipy_interval_seconds"], peer_ends = timed(peer_interval)
    times["p"], times["scipy_p"] = float(p[0]), peer
    times["interval"], times["scipy_interval"] = [float(end[0]) for end in ends], list(peer_ends)
    return times


def main() -> None:
    """Measure all sizes and write the result."""
    sizes = [(1_000, 7, RESAMPLES), (10_000, 7, RESAMPLES), (100_000, 7, RESAMPLES // 10)]
    found = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "seed": SEED,
        "sizes": [measure(*size) for size in sizes],
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
