"""How fast the stream is, and how much memory it takes, beside hand-written DuckDB SQL and pandas in the same run.

The work: a synthetic log (made by DuckDB, any size) is cut to its window, rid of repeated rows, its users hashed, its
queries masked, and written; then every row is held against every rule of validation, and what is kept is counted by
(query, locale, document, position), the pairs numbered. Each run is a process of its own; all results are compared,
the windows that they wrote too.

    python benchmarks/stream.py --rows 1_000_000 10_000_000 100_000_000 --pandas-rows 10_000_000 \\
        --spark-rows 1_000_000 --out benchmarks/results/stream.json
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
import shutil
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
DOCUMENTS = 100_000
KEY = b"a secret of the benchmark"
CYCLE = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-15T00:00:00Z"}
ENGINE = {"threads": 2, "memory_gb": 3}


def generate(rows: int, log: Path, documents: Path) -> None:
    """Write ``rows`` synthetic impressions and their catalogue.

    A fifth of the rows is outside the window, 1 % came twice (a tenth of them with another score), 1 % has a personal
    query, 0.1 % a blank one, and some show a document that the catalogue lacks.
    """
    import duckdb

    connection = duckdb.connect(config={"threads": 2, "memory_limit": "3GB", "temp_directory": str(log.parent)})
    connection.execute("SET TimeZone = 'UTC'")
    log.mkdir()
    documents.mkdir()
    connection.execute(
        f"""COPY (SELECT 'd' || n AS doc_id, ['de', 'en', 'fr'][1 + n % 3] AS locale, 'title ' || n AS title,
            '' AS body, TIMESTAMPTZ '2025-12-01' AS published_at, MAP {{'n': n::VARCHAR}} AS attributes
        FROM range({DOCUMENTS}) AS t(n) WHERE n % 1000 > 0) TO '{documents}/part-0.parquet' (FORMAT parquet)"""
    )
    for part in range(PARTITIONS):
        first, last = (rows * n // PARTITIONS for n in (part, part + 1))
        connection.execute(
            f"""COPY (
            WITH row AS (
                SELECT CASE WHEN hash(i, {SEED}) % 100 = 0 AND i > {first} THEN i - 1 ELSE i END AS i,
                    i > {first} AND hash(i, {SEED}) % 100 = 0 AND hash(i, {SEED} + 6) % 10 = 0 AS again
                FROM range({first}, {last}) AS t(i)
            ), search AS (
                SELECT i, again, i // {PAGE} AS s, (hash(i // {PAGE}, {SEED} + 1) % 1000000) / 1e6 AS u FROM row
            ), typed AS (
                SELECT *, floor(least(50000, {rows} / 50) * u * u * u)::BIGINT AS q FROM search
            )
            SELECT TIMESTAMPTZ '2026-01-01' + to_seconds(hash(s, {SEED} + 2) % (17 * 86400)) AS event_time,
                'q' || s AS query_id, 's' || (s // 4) AS session_id, 'user' || (hash(s // 4) % 100000) AS user_id,
                ['de', 'en', 'fr'][1 + q % 3] AS locale,
                CASE WHEN hash(s, {SEED} + 7) % 1000 = 0 THEN ' '
                     WHEN hash(s, {SEED} + 3) % 100 > 0 THEN 'query number ' || q
                     ELSE ['mail ann' || s || '@example.org', 'call +49 151 2345678', 'pay 4111 1111 1111 1111']
                          [1 + s % 3] END AS query,
                'd' || ((q + i % {PAGE}) % {DOCUMENTS}) AS doc_id, (1 + i % {PAGE})::INTEGER AS position,
                hash(i, {SEED} + 4) % 100 < 20 // (1 + i % {PAGE}) AS clicked, NULL::DOUBLE AS dwell_seconds,
                false AS negative_feedback,
                (hash(i, {SEED} + 5) % 3000) / 1000 + again::INTEGER / 1e6 AS score,
                'champion' AS model_version, NULL::VARCHAR AS variant
            FROM typed) TO '{log}/part-{part}.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )


def run_serm(log: Path, documents: Path, out: Path, kind: str = "duckdb") -> None:
    """The library's own plan."""
    from serm import clicks, contracts
    from serm import engine as engines
    from serm.settings import Settings
    from serm.stream.ingest import windowed
    from serm.stream.privacy import with_hashed_users
    from serm.validation.rules import flag_documents, flag_impressions

    settings = Settings.model_validate({"cycle": CYCLE, "engine": {**ENGINE, "kind": kind}})
    with engines.connect(settings.engine) as engine:
        documents_in = contracts.scan(engine, documents, contracts.DOCUMENTS)
        catalogue = flag_documents(engine, documents_in, settings.cycle).held(engine)
        rows = contracts.scan(engine, log, contracts.IMPRESSIONS).mutate(delivery=0)
        window = with_hashed_users(engine, windowed(engine, rows, settings), rows, KEY)
        between = out.with_suffix(".window")  # as between the steps ingest and validate, there in order of time
        engine.to_parquet(window.select(contracts.IMPRESSIONS.names), between)
        impressions = contracts.scan(engine, between, contracts.IMPRESSIONS)
        flagged = flag_impressions(engine, impressions, catalogue.kept, settings.cycle, 1000)
        engine.to_parquet(clicks.count(flagged.kept), out)


def run_spark(log: Path, documents: Path, out: Path) -> None:
    """The library's own plan on Spark in this machine."""
    run_serm(log, documents, out, "spark")


def run_sql(log: Path, documents: Path, out: Path) -> None:
    """The same by hand, in DuckDB with the same settings."""
    from serm import engine as engines
    from serm.settings import EngineSettings

    inner, outer = (bytes(b ^ pad for b in KEY.ljust(64, b"\0")).hex() for pad in (0x36, 0x5C))
    number = r"[+(]?\p{Nd}(?:[ ().\-/]{0,2}\p{Nd}){6,}"
    names = [
        "event_time",
        "query_id",
        "session_id",
        "user_id",
        "locale",
        "query",
        "doc_id",
        "position",
        "clicked",
        "negative_feedback",
    ]
    rules = [
        *(f"{name} IS NULL" for name in names),
        f"event_time < '{CYCLE['start']}'::TIMESTAMPTZ OR event_time >= '{CYCLE['end']}'::TIMESTAMPTZ",
        "trim(query) = ''",
        "locale NOT IN (SELECT locale FROM documents)",
        "doc_id IS NOT NULL AND known IS NULL",
        "position < 1",
        "dwell_seconds < 0 OR isnan(dwell_seconds)",
        "dwell_seconds IS NOT NULL AND NOT clicked",
        "score NOT BETWEEN 0 AND 3 OR isnan(score)",
        """row_number() OVER (PARTITION BY query_id, doc_id, position ORDER BY event_time, session_id, user_id, locale,
            query, clicked, dwell_seconds, negative_feedback, score, model_version, variant) > 1""",
    ]
    flags = ", ".join(f"coalesce({rule}, false) AS rule_{n}" for n, rule in enumerate(rules))
    kept = " AND ".join(f"NOT rule_{n}" for n in range(len(rules)))
    with engines.duckdb(EngineSettings.model_validate(ENGINE)) as engine:
        engine.con.execute(f"CREATE TEMP TABLE documents AS SELECT * FROM read_parquet('{documents}/*.parquet')")
        window = out.with_suffix(".window")
        engine.con.execute(
            rf"""COPY (
            WITH users AS (
                SELECT user_id AS raw,
                    left(sha256(unhex('{outer}' || sha256(unhex('{inner}' || hex(user_id))))), 32) AS user_id
                FROM (SELECT DISTINCT user_id FROM read_parquet('{log}/*.parquet'))
            ), unique_rows AS (
                SELECT DISTINCT event_time, query_id, session_id, users.user_id, locale, query, doc_id, position,
                    clicked, dwell_seconds, negative_feedback, score, model_version, variant
                FROM read_parquet('{log}/*.parquet') AS log LEFT JOIN users ON log.user_id = users.raw
                WHERE event_time >= '{CYCLE["start"]}'::TIMESTAMPTZ AND event_time < '{CYCLE["end"]}'::TIMESTAMPTZ
            ), mailless AS (
                SELECT * REPLACE (regexp_replace(query, '[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+', '<email>', 'g') AS query)
                FROM unique_rows
            ), numbered AS (
                SELECT *, regexp_extract(query, '{number}') AS number,
                    regexp_replace(number, '[ ().\-/]', '', 'g') AS digits FROM mailless
            ), masked AS (
                SELECT * REPLACE (CASE
                    WHEN number = '' THEN query
                    WHEN length(digits) BETWEEN 13 AND 19 AND list_sum(list_transform(
                             range(length(digits)), lambda n: CASE WHEN n % 2 = 0 THEN try_cast(digits[-1 - n] AS INT)
                             ELSE try_cast(digits[-1 - n] AS INT) * 2 % 10 + try_cast(digits[-1 - n] AS INT) // 5 END
                         )) % 10 = 0
                        THEN regexp_replace(query, '{number}', '<card>', 'g')
                    WHEN number = replace(digits, '+', '') THEN regexp_replace(query, '{number}', '<number>', 'g')
                    ELSE regexp_replace(query, '{number}', '<phone>', 'g') END AS query)
                FROM numbered
            )
            SELECT * EXCLUDE (number, digits) FROM masked) TO '{window}' (FORMAT parquet)"""
        )
        engine.con.execute(
            f"""COPY (
            WITH known AS (
                SELECT log.*, documents.doc_id AS known FROM read_parquet('{window}') AS log
                LEFT JOIN documents USING (doc_id)
            ), flagged AS (
                SELECT locale, query, doc_id, position, clicked, {flags} FROM known
            ), counts AS (
                SELECT query, locale, doc_id, position, count(*) AS impressions, sum(clicked::INTEGER) AS clicks
                FROM flagged WHERE {kept} GROUP BY ALL
            )
            SELECT *, dense_rank() OVER (ORDER BY query, locale, doc_id) - 1 AS pair FROM counts)
            TO '{out}' (FORMAT parquet)"""
        )


def run_pandas(log: Path, documents: Path, out: Path) -> None:
    """The same in pandas, as one would write it."""
    import pandas as pd

    rows, catalogue = pd.read_parquet(log), pd.read_parquet(documents, columns=["doc_id", "locale"])
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

    rows = rows.assign(query=rows["query"].map(mask)).sort_values(rows.columns.tolist())
    rows.to_parquet(out.with_suffix(".window"))
    names = [
        "event_time",
        "query_id",
        "session_id",
        "user_id",
        "locale",
        "query",
        "doc_id",
        "position",
        "clicked",
        "negative_feedback",
    ]
    rules = [
        *(rows[name].isna() for name in names),
        (rows.event_time < start) | (rows.event_time >= end),
        rows["query"].str.strip() == "",
        ~rows.locale.isin(catalogue.locale.unique()),
        ~rows.doc_id.isin(catalogue.doc_id),
        rows.position < 1,
        rows.dwell_seconds < 0,
        rows.dwell_seconds.notna() & ~rows.clicked,
        ~rows.score.between(0, 3),
        rows.duplicated(["query_id", "doc_id", "position"]),
    ]
    flags = pd.DataFrame({f"rule_{n}": rule for n, rule in enumerate(rules)})
    pair = ["query", "locale", "doc_id"]
    counts = (
        rows[~flags.any(axis=1)]
        .groupby([*pair, "position"], as_index=False)
        .agg(impressions=("clicked", "size"), clicks=("clicked", "sum"))
    )
    counts["pair"] = counts.groupby(pair).ngroup()
    counts.to_parquet(out)


RUNS = {"serm": run_serm, "sql": run_sql, "pandas": run_pandas, "spark": run_spark}


def child(name: str, log: Path, documents: Path, out: Path) -> None:
    """Run ``name`` in this process and print its seconds and peak memory, Spark's too; imports are not timed."""
    import ibis.backends.duckdb  # noqa: F401  # which ibis imports late
    import pandas  # noqa: F401
    import psutil

    import serm.stream.ingest
    import serm.validation.rules  # noqa: F401

    start = time.perf_counter()
    RUNS[name](log, documents, out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for java in psutil.Process().children(recursive=True):
        status = Path(f"/proc/{java.pid}/status").read_text(encoding="utf-8")
        peak += sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": round(seconds, 2), "peak_memory_mb": round(peak)}))


def digest(out: Path) -> list[int]:
    """What all runs must agree on: groups, impressions, clicks, pairs, rows of the window, a hash over each file."""
    import duckdb

    def over(path: Path, figures: str, columns: str) -> list[int]:
        source = f"read_parquet('{path / '*.parquet' if path.is_dir() else path}')"
        (row,) = duckdb.sql(f"SELECT {figures}, bit_xor(hash({columns})) FROM {source}").fetchall()
        return [int(value) for value in row]

    numbers = ", ".join(f"{name}::BIGINT" for name in ("position", "impressions", "clicks", "pair"))
    counts = over(
        out, "count(*), sum(impressions), sum(clicks), count(DISTINCT pair)", f"query, locale, doc_id, {numbers}"
    )
    names = "query_id, session_id, user_id, locale, query, doc_id, position::BIGINT, clicked, score"
    return counts + over(out.with_suffix(".window"), "count(*)", f"epoch_us(event_time), {names}")


def measure(rows: int, names: list[str], repeat: int, folder: Path) -> dict[str, object]:
    """Run ``names`` on a log of ``rows`` and return the seconds and the peak memory of each, its fastest run."""
    log, documents = folder / "log", folder / "documents"
    generate(rows, log, documents)
    digests = {}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for name in names * repeat:  # in turns: what else runs on the machine hits all alike
        out = folder / f"{name}.parquet"
        for earlier in (out, out.with_suffix(".window")):
            shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--child", name, str(log), str(documents), str(out)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs[name].append(json.loads(told))
        digests[name] = digest(out)
        print(f"{rows:>12,} {name:8}", told.strip(), flush=True)
    if len({tuple(found) for found in digests.values()}) > 1:
        sys.exit(f"the results differ: {digests}")
    _, kept, _, _, _, in_window, _ = digests["serm"]
    line: dict[str, object] = {"rows": rows, "rows_in_window": in_window, "rows_quarantined": in_window - kept}
    for name, found in runs.items():
        best = min(found, key=lambda run: run["seconds"])
        line[name] = {**best, "all_seconds": [run["seconds"] for run in found]}
    seconds = {name: min(run["seconds"] for run in found) for name, found in runs.items()}
    line["serm_over_sql"] = round(seconds["serm"] / seconds["sql"], 2)
    if "pandas" in seconds:
        line["pandas_over_serm"] = round(seconds["pandas"] / seconds["serm"], 2)
    return line


def main() -> None:
    """Run all and print a line a run; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--pandas-rows", type=int, nargs="*", default=[], help="The sizes that pandas runs at too.")
    parser.add_argument("--spark-rows", type=int, nargs="*", default=[], help="The sizes that Spark runs at too.")
    parser.add_argument("--repeat", type=int, default=3, help="Runs of each up to 10 million rows; the fastest counts.")
    parser.add_argument("--temp", type=Path, help="Where the logs go; 100 million rows take some 3 GB, and spill more.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, metavar=("RUN", "LOG", "DOCUMENTS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], *map(Path, args.child[1:]))
        return
    if args.temp:
        args.temp.mkdir(parents=True, exist_ok=True)
    results = []
    for rows in args.rows:
        names = ["serm", "sql"]
        names += ["pandas"] * (rows in args.pandas_rows) + ["spark"] * (rows in args.spark_rows)
        with tempfile.TemporaryDirectory(dir=args.temp) as folder:
            results.append(measure(rows, names, args.repeat if rows <= 10_000_000 else 1, Path(folder)))
    summary = {
        "command": "python " + " ".join(sys.argv),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": SEED,
        "engine": ENGINE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("duckdb", "ibis-framework", "pandas", "pyspark")},
        "results": results,
    }
    print(json.dumps(summary, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
