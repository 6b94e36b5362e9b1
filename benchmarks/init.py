"""What ``serm init`` takes, part by part, but for the training of the first champion: seconds and memory.

A synthetic catalogue (JSON lines, texts of 3 to 60 words) and the synthetic log of ``benchmarks/stream.py`` (Parquet)
are made; then each part of init runs in order in one process: the look at all files, the catalogue, the copy of the
log, the two windows, the check of their documents, and the judgments. The peak is the process's so far.

    python benchmarks/init.py --documents 1_000_000 --rows 1_000_000 10_000_000 100_000_000 \\
        --out benchmarks/results/init.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream import SEED, generate

WORDS = (
    "red",
    "blue",
    "small",
    "large",
    "lamp",
    "table",
    "chair",
    "of",
    "the",
    "with",
    "steel",
    "wood",
    "glass",
    "soft",
)
QUERIES, JUDGED = 500, 20
EVERY = 7.0
"""Days of a window; the log has 17."""


def catalogue(count: int, path: Path) -> None:
    """Write ``count`` documents as JSON lines; a thousandth of them has no id."""
    import duckdb

    words = f"[{', '.join(repr(word) for word in WORDS)}]"
    duckdb.connect(config={"threads": 2, "memory_limit": "3GB"}).execute(
        f"""COPY (SELECT CASE WHEN n % 1000 = 999 THEN NULL ELSE 'd' || n END AS id, 'title ' || n AS title,
            array_to_string(list_transform(range((3 + hash(n, {SEED}) % 58)::BIGINT),
                lambda w: {words}[(1 + hash(n, w, {SEED}) % {len(WORDS)})::BIGINT]), ' ') AS description,
            {{'amount': n % 1000, 'currency': 'EUR'}} AS price, ['a', 'b'][1 + n % 2] AS brand
        FROM range({count}) AS t(n)) TO '{path}' (FORMAT json)"""
    )


def judgments(path: Path) -> None:
    """Write judgments of queries that the log has."""
    lines = [
        json.dumps({"query": f"query number {query}", "docid": f"d{query + place}", "rating": (query + place) % 4})
        for query in range(QUERIES)
        for place in range(JUDGED)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def child(folder: Path) -> None:
    """Run the parts of init on what is in ``folder``; print a line of JSON."""
    from serm.founding import Given, plan
    from serm.founding.given import early
    from serm.founding.parts import Parts

    given = Given(folder / "log", folder / "products.jsonl", [folder / "judged.jsonl"], every=EVERY)
    found: dict[str, dict[str, float]] = {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = part()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_memory_mb": round(peak)}
        return made

    root = folder / "shop"
    (root / ".serm").mkdir(parents=True)
    planned = timed("look at all files", lambda: plan(given))
    parts = Parts(root, given, planned, [])
    documents = timed("catalogue", lambda: parts.documents(early("en")))
    settings = parts.settings(documents)
    timed("copy of the log", parts.log)
    shown = timed("two windows", lambda: parts.windows(settings))
    timed("check of their documents", lambda: parts.lacking(shown, settings))
    timed("judgments", lambda: parts.judgments(shown, settings))
    told = {"documents": documents["kept"], "quarantined": documents["quarantined"], "pairs_shown": shown.num_rows}
    print(json.dumps(told | {"seconds": round(sum(of["seconds"] for of in found.values()), 2), "parts": found}))


def measure(documents: int, rows: int, folder: Path) -> dict[str, Any]:
    """Make the files and run the parts on them in a process of their own."""
    (folder / "of_log").mkdir()
    generate(rows, folder / "log", folder / "of_log" / "documents")
    catalogue(documents, folder / "products.jsonl")
    judgments(folder / "judged.jsonl")
    sizes = {
        "catalogue_mb": round((folder / "products.jsonl").stat().st_size / 1e6, 1),
        "log_mb": round(sum(file.stat().st_size for file in (folder / "log").iterdir()) / 1e6, 1),
    }
    environment = os.environ | {"SERM_USER_KEY": "0123456789abcdef0123456789abcdef"}
    command = [sys.executable, __file__, "--child", str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    print(f"{rows:>12,}", told.strip(), flush=True)
    return {"rows": rows, **sizes, **json.loads(told)}


def main() -> None:
    """Run all sizes of the log; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--temp", type=Path, help="Where the files go: about 60 MB a million rows, twice over.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="What is to be known of the machine, such as other work beside it.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    if args.temp:
        args.temp.mkdir(parents=True, exist_ok=True)
    results = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.temp) as folder:
            results.append(measure(args.documents, rows, Path(folder)))
    summary = {
        "command": "python " + " ".join(sys.argv),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": SEED,
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores",
        "note": args.note,
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("duckdb", "ibis-framework", "pyarrow")},
        "results": results,
    }
    print(json.dumps(summary, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()
