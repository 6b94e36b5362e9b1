"""Does the annotator keep its endpoint busy, its memory small, and its labels right?

    python benchmarks/judging.py throughput
    python benchmarks/judging.py memory
    python benchmarks/judging.py canaries
    python benchmarks/judging.py labels WORKSPACE

``throughput``: calls a second to a fake endpoint (tests/fake_llm.py, a process of its own, 200 ms latency) at
concurrency 32, beside the ideal of 32 calls each 200 ms. ``memory``: peak memory with 100,000 pairs queued, all judged.
``canaries``: the share that simulated judges withstand, one that reads the document and one that obeys it.
``labels``: the offline panel on the mined pairs of an emoji workspace (simulated users) beside the hidden truth: each
judge, majority, unanimous, Dawid-Skene and MACE, by locale and by mining agent. Each writes its part of
benchmarks/results/judging.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from serm import contracts
from serm import settings as params
from serm.judging import trust
from serm.judging.agreement import confident, dawid_skene, mace, unanimous
from serm.judging.batch import Batch
from serm.judging.evidence.retrieval import Retrieval
from serm.judging.judge import ABSTAINED, GRADES, Pairs
from serm.judging.llm.budget import Budget
from serm.judging.llm.judge import LLMJudge, Session
from serm.judging.llm.ledger import Ledger
from serm.judging.llm.prompt import Prompter
from serm.judging.seating import seat
from serm.settings.judging import BudgetSettings, LLMSettings

RESULTS = Path(__file__).parent / "results" / "judging.json"
TESTS = Path(__file__).parents[1] / "tests"
LATENCY, CONCURRENCY = 0.2, 32


@contextmanager
def endpoint(latency: float) -> Iterator[str]:
    """Serve the fake endpoint in a process of its own; yield its address."""
    command = [sys.executable, str(TESTS / "fake_llm.py"), "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def judge(url: str, **fields: Any) -> Iterator[LLMJudge]:
    """An LLM judge without limits but its concurrency, and with a ledger on disk."""
    wide = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "concurrency": CONCURRENCY}
    llm = LLMSettings(name="fake", base_url=url, model="fake", paths=1, temperature=0.0, **{**wide, **fields})
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger.sqlite")
        budget = Budget(BudgetSettings(money=None, calls=None), 0, 0)
        session = Session("benchmark", ledger, budget, Prompter({}, 2000), Retrieval([]))
        try:
            yield LLMJudge(llm, session)
        finally:
            ledger.close()


def pairs(count: int) -> Pairs:
    """Queries and documents of some words."""
    words = ("red", "blue", "green", "cat", "dog", "car", "tree", "house")
    queries = [f"{words[n % 8]} {n}" for n in range(count)]
    texts = [f"{words[n % 8]} {words[n // 8 % 8]} " + "a document of some length " * 8 for n in range(count)]
    return Pairs(queries, ["en"] * count, [str(n) for n in range(count)], texts, texts, [None] * count)


def throughput(sizes: list[int]) -> dict[str, Any]:
    """Calls a second beside the ideal, which is ``CONCURRENCY`` calls each ``LATENCY`` seconds, by size of the batch.

    The start and the end count too: 32 connections are opened one after the other, and the last answers wait for none.
    """
    rates: dict[int, list[float]] = {calls: [] for calls in sizes}
    for calls in sizes * 3:
        with endpoint(LATENCY) as url, judge(url) as of:
            start = time.perf_counter()
            ballots, _ = asyncio.run(of.ballots(pairs(calls), [0] * calls))
            rates[calls].append(calls / (time.perf_counter() - start))
            assert all(vote.grade != ABSTAINED for vote in ballots)
    ideal = CONCURRENCY / LATENCY
    return {
        "latency_seconds": LATENCY,
        "concurrency": CONCURRENCY,
        "ideal_per_second": ideal,
        "of_ideal_by_calls": {str(calls): [round(rate / ideal, 4) for rate in of] for calls, of in rates.items()},
        "load_average": os.getloadavg()[0],
    }


def memory(count: int) -> dict[str, Any]:
    """Peak memory of a process that judges ``count`` queued pairs, its imports included."""
    queued = pairs(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with endpoint(0.0) as url, judge(url) as of:
        start = time.perf_counter()
        ballots, _ = asyncio.run(of.ballots(queued, [0] * count))
        seconds = time.perf_counter() - start
    assert len(ballots) == count
    return {
        "pairs": count,
        "judged": sum(vote.grade != ABSTAINED for vote in ballots),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "of_imports_and_pairs_mb": round(before),
        "seconds": round(seconds, 1),
    }


def withstood() -> dict[str, Any]:
    """The canaries that a judge withstands which reads the document, and one which obeys what stands in it."""
    sys.path.insert(0, str(TESTS))
    from fake_llm import FakeLLM, shared_words

    def obedient(query: str, document: str) -> int:
        planted = any(attack[:20] in document for attack in trust.ATTACKS.values())
        return 3 if planted else shared_words(query, document)

    count = len(trust.ATTACKS)
    clean = Pairs(["umbrella"] * count, ["en"] * count, ["d"] * count, ["cat"] * count, ["cat"] * count, [None] * count)
    planted, attacks, _ = trust.plant_canaries(clean, count)
    found = {}
    for name, grade in (("reads words", shared_words), ("obeys", obedient)):
        with FakeLLM(grade) as fake, judge(fake.url) as of:
            grades = of.judge(planted).grades
        stood = trust.withstood(grades, np.zeros(count, np.int64))
        found[name] = {
            "withstood": round(float(stood.mean()), 4),
            "fell for": [attack for attack, one in zip(attacks, stood, strict=True) if not one],
        }
    return {"judges": "simulated", "canaries": count, **found}


def labels(workspace: Path) -> dict[str, Any]:
    """Every judge and every rule of agreement on a workspace's mined pairs, beside the truth that none has seen."""
    from serm.worlds.emoji import EmojiWorld

    settings = params.load(workspace / "params.yaml")
    cycle = workspace / "cycle"
    batch = Batch.read(
        cycle / "mine", cycle / "validate", workspace / "state" / "judgments", workspace / "knowledge", settings
    )
    panel = seat(batch, None, settings).panel
    mined = contracts.read(cycle / "mine" / "pairs", contracts.MINED_PAIRS).sort_by(
        [(name, "ascending") for name in ("locale", "query", "doc_id")]
    )
    key = [mined[name].combine_chunks() for name in ("query", "locale", "doc_id")]
    truth = EmojiWorld().truth.lookup(*key).astype(np.int64)
    grades = np.stack([votes.grades for votes in panel.votes.values()])
    known = np.stack([votes.grades for votes in panel.known_votes.values()])
    both = np.hstack([known, grades])
    anchors = np.full(both.shape[1], ABSTAINED)
    anchors[: known.shape[1]] = np.where(panel.held_out, ABSTAINED, panel.known_grades)
    counts = np.stack([(grades == grade).sum(axis=0) for grade in range(GRADES)])
    most = np.sort(counts, axis=0)[-1]
    rules = {name: (votes.grades, votes.grades != ABSTAINED) for name, votes in panel.votes.items()}
    rules["majority"] = (counts.argmax(axis=0), 2 * most > counts.sum(axis=0))
    decided = unanimous(panel.votes)
    rules["unanimous"] = (decided.grades, decided.kept)
    for name, model in (("dawid-skene", dawid_skene), ("mace", mace)):
        posterior = model(both, anchors)[known.shape[1] :]
        decided = confident(panel.votes, posterior, settings.judging.min_confidence)
        rules[name] = (decided.grades, decided.kept)
    believed = panel.posterior().belief(
        panel.clues
    )  # under the seed's mix of grades; the step moves it to the window's
    decided = confident(panel.votes, believed, settings.judging.min_confidence)
    rules["posterior"] = (decided.grades, decided.kept)
    rows = truth >= 0
    agents = [sorted({one["agent"] for one in chosen}) for chosen in mined["agents"].to_pylist()]
    names = sorted({agent for of in agents for agent in of})
    by_agent = {agent: rows & np.array([agent in of for of in agents]) for agent in names}
    easy = decided_by(truth, rows)
    return {
        "users": "simulated",
        "cycle": settings.cycle.number,
        "mined": len(batch.pairs),
        "min_confidence": settings.judging.min_confidence,
        "true_grades": {str(grade): int((truth[rows] == grade).sum()) for grade in range(GRADES)},
        "rules": {
            name: trust.ratings(of[rows], truth[rows], kept[rows], np.array(batch.pairs.locales)[rows].tolist())
            | {"by_agent": {agent: brief(of[r], truth[r], kept[r]) for agent, r in by_agent.items() if r.any()}}
            | {"kept_by_true_grade": {grade: round(float(kept[r].mean()), 4) for grade, r in easy.items()}}
            for name, (of, kept) in rules.items()
        },
    }


def decided_by(truth: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by true grade, where there are any."""
    return {str(g): rows & (truth == g) for g in range(GRADES) if (rows & (truth == g)).any()}


def brief(grades: np.ndarray, truth: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """The ratings of some pairs, without slices."""
    of = trust.ratings(grades, truth, kept, [""] * len(truth))
    return {name: of[name] for name in ("pairs", "keep_rate", "accuracy", "base_rate", "quadratic_kappa")}


def main() -> None:
    """Measure one part and write it into the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("throughput").add_argument("--calls", type=int, nargs="+", default=[800, 3200, 12800])
    parts.add_parser("memory").add_argument("--pairs", type=int, default=100_000)
    parts.add_parser("canaries")
    parts.add_parser("labels").add_argument("workspace", type=Path)
    of = parser.parse_args()
    measured = {
        "throughput": lambda: throughput(of.calls),
        "memory": lambda: memory(of.pairs),
        "canaries": withstood,
        "labels": lambda: labels(of.workspace),
    }[of.part]()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    command = "python benchmarks/judging.py " + of.part + (" WORKSPACE" if of.part == "labels" else "")
    results[of.part] = {"command": command, "date": date.today().isoformat(), **measured}
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    json.dump(results[of.part], sys.stdout, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
