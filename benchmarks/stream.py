"""How fast the stream is, and how much memory it takes, beside hand-written DuckDB SQL and pandas in the same run.

The work: a synthetic log (made by DuckDB, any size) is cut to its window, rid of repeated rows, its users hashed, its
queries masked, and counted by (locale, query, document, position). Each run is a process of its own; all results are
compared with each other.

    python benchmarks/stream.py --rows 1_000_000 10_000_000 --out benchmarks/results/stream.json
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

SEED = 31
PAGE = 10
PARTITIONS = 4
KEY = b"a secret of the benchmark"
CYCLE = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-15T00:00:00Z"}
ENGINE = {"threads": 2, "memory_gb": 3}


def generate(rows: int, log: Path) -> None:
    """Write ``rows`` synthetic impressions: a fifth outside the window, 1 % repeated, 1 % with personal queries."""
    import duckdb

    connection = duckdb.connect(config={"threads": 2, "memory_limit": "3GB", "temp_directory": str(log.parent)})
    connection.execute("SET TimeZone = 'UTC'")
    log.mkdir()
    for part in range(PARTITIONS):
        first, last = (rows * n // PARTITIONS for n in (part, part + 1))
        connection.execute(
            f"""COPY (
            WITH row AS (
                SELECT CASE WHEN hash(i, {SEED}) % 100 = 0 AND i > {first} THEN i - 1 ELSE i END AS i
                FROM range({first}, {last}) AS t(i)
            ), search AS (
                SELECT i, i // {PAGE} AS s, (hash(i // {PAGE}, {SEED} + 1) % 1000000) / 1e6 AS u FROM row
            ), typed AS (
                SELECT *, floor(least(50000, {rows} / 50) * u * u * u)::BIGINT AS q FROM search
            )
            SELECT TIMESTAMPTZ '2026-01-01' + to_seconds(hash(s, {SEED} + 2) % (17 * 86400)) AS event_time,
                'q' || s AS query_id, 's' || (s // 4) AS session_id, 'user' || (hash(s // 4) % 100000) AS user_id,
                ['de', 'en', 'fr'][1 + q % 3] AS locale,
                CASE WHEN hash(s, {SEED} + 3) % 100 > 0 THEN 'query number ' || q
                     ELSE ['mail ann' || s || '@example.org', 'call +49 151 2345678', 'pay 4111 1111 1111 1111']
                          [1 + s % 3] END AS query,
                'd' || ((q + i % {PAGE}) % 100000) AS doc_id, (1 + i % {PAGE})::INTEGER AS position,
                hash(i, {SEED} + 4) % 100 < 20 // (1 + i % {PAGE}) AS clicked, NULL::DOUBLE AS dwell_seconds,
                false AS negative_feedback, (hash(i, {SEED} + 5) % 3000) / 1000 AS score,
                'champion' AS model_version, NULL::VARCHAR AS variant
            FROM typed) TO '{log}/part-{part}.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )


def run_serm(log: Path, out: Path) -> None:
    """The library's own plan."""
    from serm import contracts
    from serm import engine as engines
    from serm.settings import Settings
    from serm.stream.ingestion import windowed
    from serm.stream.privacy import keyed_hash

    settings = Settings.model_validate({"cycle": CYCLE, "engine": ENGINE})
    with engines.connect(settings.engine) as engine:
        rows = contracts.scan(engine, log, contracts.IMPRESSIONS).mutate(delivery=0)
        kept = windowed(rows.mutate(user_id=keyed_hash(rows.user_id, KEY)), settings)
        counts = kept.group_by("locale", "query", "doc_id", "position").aggregate(
            impressions=kept.count(), clicks=kept.clicked.sum(), users=kept.user_id.nunique()
        )
        engine.to_parquet(counts, out)


def run_sql(log: Path, out: Path) -> None:
    """The same by hand, in DuckDB with the same settings."""
    from serm import engine as engines
    from serm.settings import EngineSettings

    inner, outer = (bytes(b ^ pad for b in KEY.ljust(64, b"\0")).hex() for pad in (0x36, 0x5C))
    number = r"[+(]?\p{Nd}(?:[ ().\-/]{0,2}\p{Nd}){6,}"
    with engines.duckdb(EngineSettings.model_validate(ENGINE)) as engine:
        engine.con.execute(
            rf"""COPY (
            WITH kept AS (
                SELECT DISTINCT event_time, query_id, session_id,
                    left(sha256(unhex('{outer}' || sha256(unhex('{inner}' || hex(user_id))))), 32) AS user_id,
                    locale, query, doc_id, position, clicked, dwell_seconds, negative_feedback, score, model_version,
                    variant
                FROM read_parquet('{log}/*.parquet')
                WHERE event_time >= '{CYCLE["start"]}'::TIMESTAMPTZ AND event_time < '{CYCLE["end"]}'::TIMESTAMPTZ
            ), mailless AS (
                SELECT *, regexp_replace(query, '[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+', '<email>', 'g') AS text FROM kept
            ), numbered AS (
                SELECT *, regexp_extract(text, '{number}') AS number,
                    regexp_replace(number, '[ ().\-/]', '', 'g') AS digits FROM mailless
            ), masked AS (
                SELECT locale, doc_id, position, clicked, user_id, CASE
                    WHEN number = '' THEN text
                    WHEN length(digits) BETWEEN 13 AND 19 AND list_sum(list_transform(
                             range(length(digits)), lambda n: CASE WHEN n % 2 = 0 THEN try_cast(digits[-1 - n] AS INT)
                             ELSE try_cast(digits[-1 - n] AS INT) * 2 % 10 + try_cast(digits[-1 - n] AS INT) // 5 END
                         )) % 10 = 0
                        THEN regexp_replace(text, '{number}', '<card>', 'g')
                    WHEN number = replace(digits, '+', '') THEN regexp_replace(text, '{number}', '<number>', 'g')
                    ELSE regexp_replace(text, '{number}', '<phone>', 'g') END AS query
                FROM numbered
            )
            SELECT locale, query, doc_id, position, count(*) AS impressions, sum(clicked::INTEGER) AS clicks,
                count(DISTINCT user_id) AS users
            FROM masked GROUP BY ALL) TO '{out}' (FORMAT parquet)"""
        )


def run_pandas(log: Path, out: Path) -> None:
    """The same in pandas, as one would write it."""
    import pandas as pd

    rows = pd.read_parquet(log)
    start, end = (pd.Timestamp(CYCLE[name]) for name in ("start", "end"))
    rows = rows[(rows.event_time >= start) & (rows.event_time < end)].drop_duplicates()
    users = {user: hmac.new(KEY, user.encode(), hashlib.sha256).hexdigest()[:32] for user in rows.user_id.unique()}
    rows = rows.assign(user_id=rows.user_id.map(users))
    number = re.compile(r"[+(]?\d(?:[ ().\-/]{0,2}\d){6,}")

    def mask(query: str) -> str:
        query = re.sub(r"[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+", "<email>", query)
        if not (found := number.search(query)):
            return query
        digits = re.sub(r"[ ().\-/]", "", found[0])
        total = sum(sum(divmod(int(d) * (1 + n % 2), 10)) for n, d in enumerate(digits[::-1]) if d.isdigit())
        kind = "phone" if found[0] != digits.replace("+", "") else "number"
        return number.sub("<card>" if 13 <= len(digits) <= 19 and total % 10 == 0 else f"<{kind}>", query)

    rows = rows.assign(query=rows["query"].map(mask))
    counts = rows.groupby(["locale", "query", "doc_id", "position"], as_index=False).agg(
        impressions=("clicked", "size"), clicks=("clicked", "sum"), users=("user_id", "nunique")
    )
    counts.to_parquet(out)


RUNS = {"serm": run_serm, "sql": run_sql, "pandas": run_pandas}


def child(name: str, log: Path, out: Path) -> None:
    """Run ``name`` in this process and print its seconds and its peak memory; the imports are not timed."""
    import pandas  # noqa: F401

    import serm.stream.ingestion  # noqa: F401

    start = time.perf_counter()
    RUNS[name](log, out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_memory_mb": round(peak)}))


def digest(counts: Path) -> list[int]:
    """What all runs must agree on: groups, impressions, clicks, users, and a hash over all rows."""
    import duckdb

    columns = "locale, query, doc_id, position::INTEGER, impressions::BIGINT, clicks::BIGINT, users::BIGINT"
    sql = f"SELECT count(*), sum(impressions), sum(clicks), sum(users), bit_xor(hash({columns})) FROM '{counts}'"
    return [int(value) for value in duckdb.sql(sql).fetchall()[0]]


def main() -> None:
    """Run all and print a line a run; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--pandas-up-to", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="Runs of each; the fastest counts.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, metavar=("RUN", "LOG", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), Path(args.child[2]))
        return
    results = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            generate(rows, log)
            line: dict[str, object] = {"rows": rows}
            digests = {}
            names = [name for name in RUNS if name != "pandas" or rows <= args.pandas_up_to]
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for name in names * args.repeat:  # in turns: what else runs on the machine hits all alike
                out = Path(folder) / f"{name}.parquet"
                command = [sys.executable, __file__, "--child", name, str(log), str(out)]
                told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[name].append(json.loads(told))
                digests[name] = digest(out)
                print(f"{rows:>12,} {name:8}", told.strip(), flush=True)
            for name, found in runs.items():
                line[name] = {
                    **min(found, key=lambda run: run["seconds"]),
                    "all_seconds": [run["seconds"] for run in found],
                }
            if len({tuple(found) for found in digests.values()}) > 1:
                sys.exit(f"the results differ: {digests}")
            line["serm_over_sql"] = round(line["serm"]["seconds"] / line["sql"]["seconds"], 2)
            if "pandas" in line:
                line["pandas_over_serm"] = round(line["pandas"]["seconds"] / line["serm"]["seconds"], 2)
            results.append(line)
    summary = {
        "command": "python " + " ".join(sys.argv),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": SEED,
        "engine": ENGINE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("duckdb", "ibis-framework", "pandas")},
        "results": results,
    }
    print(json.dumps(summary, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
