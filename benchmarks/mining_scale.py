"""From a large log to a mined set, scoring aside: how long it takes and how much memory.

    python benchmarks/mining_scale.py --rows 1_000_000 10_000_000 100_000_000

DuckDB writes a synthetic log of two windows (a reference of a tenth of the rows, and the window) with the catalogue;
then the mine step's own ``mine_pairs`` runs on it, with 2 threads and 2 GB for the engine. The champion is a stand-in
that answers at once, because its speed is measured elsewhere (benchmarks/results/mining.json says what it scores).
Each size is a process of its own. Writes benchmarks/results/mining_scale.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "mining_scale.json"
SEED = 41
PAGE = 10
WINDOWS = {"reference": "2025-01-01", "window": "2026-01-01"}
CYCLE = {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}


def generate(rows: int, directory: Path) -> None:
    """Write the two windows and the catalogue: a query for every 500 impressions, 12 documents a query, Zipf-like."""
    import duckdb

    connection = duckdb.connect(config={"threads": 2, "memory_limit": "2GB", "temp_directory": str(directory)})
    connection.execute("SET TimeZone = 'UTC'")
    queries = max(rows // 500, 100)
    for (name, start), size in zip(WINDOWS.items(), (rows // 10, rows), strict=True):
        (directory / name).mkdir()
        parts = max(1, size // 25_000_000)
        for part in range(parts):
            first, last = (size // PAGE * n // parts * PAGE for n in (part, part + 1))
            connection.execute(
                f"""COPY (
                WITH search AS (
                    SELECT i, i // {PAGE} AS s, i % {PAGE} AS rank,
                        floor({queries} * pow((hash(i // {PAGE}, {SEED}) % 1000000) / 1e6, 3))::BIGINT AS q
                    FROM range({first}, {last}) AS t(i)
                ), page AS (
                    SELECT *, (rank + hash(s, {SEED} + 1) % 3) % 12 AS d, hash(q, (rank + hash(s, {SEED} + 1) % 3) % 12,
                        {SEED} + 2) % 100 AS liked FROM search
                )
                SELECT TIMESTAMPTZ '{start}' + to_seconds(hash(s, {SEED} + 3) % (31 * 86400)) AS event_time,
                    'q' || s AS query_id, 's' || (s // 4) AS session_id, 'u' || (hash(s // 4) % 1000000) AS user_id,
                    ['de', 'en', 'fr', 'ja'][1 + q % 4] AS locale, 'query number ' || q AS query,
                    'd' || (q * 12 + d) AS doc_id, (1 + rank)::INTEGER AS position,
                    hash(i, {SEED} + 4) % 1000 < liked * 10 // (1 + rank) AS clicked,
                    CASE WHEN clicked THEN (hash(i, {SEED} + 5) % 90)::DOUBLE END AS dwell_seconds,
                    hash(i, {SEED} + 6) % 200 < (100 - liked) // 50 AS negative_feedback,
                    (hash(q, d, {SEED} + 7) % 3000) / 1000 AS score, 'champion' AS model_version,
                    NULL::VARCHAR AS variant
                FROM page) TO '{directory}/{name}/part-{part}.parquet' (FORMAT parquet, COMPRESSION zstd)"""
            )
    (directory / "documents").mkdir()
    connection.execute(
        f"""COPY (
        SELECT 'd' || i AS doc_id, ['de', 'en', 'fr', 'ja'][1 + (i // 12) % 4] AS locale, 'title ' || i AS title,
            '' AS body, TIMESTAMPTZ '2020-01-01' AS published_at, map([], [])::MAP(VARCHAR, VARCHAR) AS attributes
        FROM range({queries} * 12) AS t(i)) TO '{directory}/documents/part-0.parquet' (FORMAT parquet)"""
    )


class StandIn:
    """A champion that answers at once, by a hash of the text."""

    version = "champion"

    class encoder:
        """Vectors by a hash of the text."""

        @staticmethod
        def embed(texts: Sequence[str], kind: str) -> np.ndarray:
            """Return unit vectors [n, 64]."""
            vectors = np.stack([np.random.default_rng(abs(hash(text)) % 2**32).normal(size=64) for text in texts])
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def score(self, queries: list[str], texts: list[str]) -> Any:
        """Return an even belief in all grades."""
        from serm.relevance import Scores

        return Scores(np.full(len(texts), 1.5), np.full((len(texts), 4), 0.25))

    def sample(self, queries: list[str], texts: list[str], samples: int, seed: int) -> np.ndarray:
        """Return expected grades [samples, n] at random."""
        return np.random.default_rng(seed).uniform(0, 3, (samples, len(texts)))


def mine(directory: Path) -> dict[str, Any]:
    """Run the mine step's body and return its cascade, seconds and peak memory."""
    from serm import contracts
    from serm import engine as engines
    from serm.clicks import PAIR
    from serm.mining.mine import Inputs, mine_pairs
    from serm.settings import Settings

    mining = {"hard_negatives_by": ["BM25"]}  # an encoder over the catalogue is scoring, which stands aside here
    settings = Settings.model_validate({"cycle": CYCLE, "engine": {"threads": 2, "memory_gb": 2}, "mining": mining})
    contracts.write(contracts.JUDGMENTS.empty_table(), directory / "judgments", contracts.JUDGMENTS)
    start = time.perf_counter()
    with engines.connect(settings.engine) as engine, tempfile.TemporaryDirectory() as finished:
        inputs = Inputs(
            contracts.scan(engine, directory / "window", contracts.IMPRESSIONS),
            contracts.scan(engine, directory / "reference", contracts.IMPRESSIONS),
            contracts.scan(engine, directory / "documents", contracts.DOCUMENTS),
            contracts.scan(engine, directory / "judgments", contracts.JUDGMENTS),
            contracts.scan(engine, directory / "judgments", contracts.JUDGMENTS),
            StandIn(),  # type: ignore[arg-type]
            lambda title, body: title,
        )
        mined = mine_pairs(engine, inputs, settings, Path(finished))
        engines.write(engine, mined.clicks, directory / "clicks", contracts.CLICK_ESTIMATES, PAIR)
    return {
        "cascade": mined.summary["cascade"],
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Run each size in a process of its own and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(mine(arguments.inside)))
        return
    sizes: dict[str, Any] = {}
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as directory:
            generate(rows, Path(directory))
            command = [sys.executable, __file__, "--inside", directory]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sizes[f"{rows:,}"] = json.loads(done.stdout.splitlines()[-1])
        print(rows, sizes[f"{rows:,}"], flush=True)
        results = {"command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(), "seed": SEED}
        RESULTS.write_text(json.dumps(results | {"log": "synthetic", "rows": sizes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
