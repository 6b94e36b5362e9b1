"""A tiny workspace to annotate: eight documents, twelve queries, all judged as seed but the last three, mined ones."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest

from serm import clicks, contracts, relevance
from serm import engine as engines
from serm.judging import annotate, estimate
from serm.mining import candidates
from serm.settings import CycleSettings, JudgingSettings, Settings

NAMES = ("red cat", "cat face", "blue dog", "dog face", "green car", "fast car", "apple tree", "tall tree")
QUERIES = ("cat", "dog", "car", "tree", "face", "red", "blue", "tall", "apple", "fast", "green", "pet")


class LetterEncoder:
    """Stands for the encoder: a text's letter trigrams, hashed. Texts that share letters are near."""

    def embed(self, texts: list[str], kind: str) -> np.ndarray:
        vectors = np.full((len(texts), 64), 0.01, np.float32)
        for row, text in enumerate(texts):
            for start in range(len(text) - 1):
                vectors[row, hashlib.md5(text[start : start + 2].encode()).digest()[0] % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the workspace into ``tmp_path``; the encoder is ``LetterEncoder``."""
    monkeypatch.setitem(vars(relevance), "load_encoder", lambda base, settings: LetterEncoder())
    ids = [f"en-{number}" for number in range(len(NAMES))]
    documents = {
        "doc_id": ids,
        "locale": ["en"] * len(ids),
        "title": list(NAMES),
        "body": [""] * len(ids),
        "published_at": [datetime(2016, 1, 1, tzinfo=UTC)] * len(ids),
        "attributes": pa.array([[("emoji", i)] for i in ids[:-1]] + [[]], pa.map_(pa.string(), pa.string())),
    }
    contracts.write(pa.table(documents), tmp_path / "validated" / "documents", contracts.DOCUMENTS)
    knowledge = [(i, word) for i, name in zip(ids, NAMES, strict=True) for word in (*name.split(), "thing")]
    contracts.write(
        pa.table({"key": [k for k, _ in knowledge], "text": [t for _, t in knowledge]}),
        tmp_path / "knowledge",
        contracts.KNOWLEDGE,
    )
    write_judgments(tmp_path, seed_rows())
    write_clicks(tmp_path, QUERIES, searches=1)
    write_mined(tmp_path, [(query, i) for query in QUERIES[-3:] for i in ids])
    return tmp_path


def true_grade(query: str, document: str) -> int:
    """The grade of the seed, by a document's text, whatever is planted behind its name."""
    number = next(n for n, name in enumerate(NAMES) if document.startswith(name))
    name = NAMES[number]
    return 3 if name.startswith(query) else 2 if query in name else number % 2


#: The true grades of the mined pairs.
TRUTH = {("green", "en-4"): 3, ("green", "en-2"): 0, ("pet", "en-0"): 0}


def graded(votes: list[dict[str, Any]]) -> dict[tuple[str, str], int | None]:
    """Return each vote's grade by its pair."""
    return {(vote["query"], vote["doc_id"]): vote["grade"] for vote in votes}


def seed_rows() -> list[dict[str, object]]:
    return [
        {
            "query": query,
            "locale": "en",
            "doc_id": f"en-{number}",
            "grade": true_grade(query, name),
            "source": "seed",
            "cycle": 0,
        }
        for query in QUERIES[:-3]
        for number, name in enumerate(NAMES)
    ]


def write_clicks(world: Path, queries: Sequence[str], searches: int) -> None:
    """Write what the miner makes of a log in which each query is searched so often."""
    estimates = click_estimates(tuple(queries), searches)
    contracts.write(estimates, world / "mined" / "click_estimates", contracts.CLICK_ESTIMATES)


@functools.cache
def click_estimates(queries: tuple[str, ...], searches: int) -> pa.Table:
    """What the miner makes of a log in which each query is searched so often.

    Each time all documents are shown, in a random order, and clicked the more often the better they are.
    """
    rng = np.random.default_rng(7)
    rows = []
    for number, (query, _) in enumerate(itertools.product(queries, range(searches))):
        for position, document in enumerate(rng.permutation(len(NAMES)), start=1):
            clicked = rng.random() < (0.05, 0.2, 0.5, 0.9)[true_grade(query, NAMES[document])] / position**0.5
            rows.append(
                {
                    "event_time": datetime(2017, 3, 1, tzinfo=UTC),
                    **dict.fromkeys(("query_id", "session_id", "user_id"), str(number)),
                    "locale": "en",
                    "query": query,
                    "doc_id": f"en-{document}",
                    "position": position,
                    "clicked": clicked,
                    "dwell_seconds": 60.0 if clicked else None,
                    "negative_feedback": False,
                    **dict.fromkeys(("score", "model_version", "variant")),
                }
            )
    tests = ibis.memtable(pa.table({"query": pa.array([], pa.string())}))
    log, settings = ibis.memtable(pa.Table.from_pylist(rows, contracts.IMPRESSIONS)), settings_of(2)
    with engines.connect(settings.engine) as engine:
        counts = engines.hold(engine, "counts", candidates.count(log, "", settings.cycle.middle, 30.0))
        model = clicks.fit(clicks.number(log, counts), clicks.ClickCounts.read(counts), settings.clicks)
        return engine.to_pyarrow(candidates.estimates(counts, model, settings.clicks, tests))


def write_judgments(world: Path, rows: list[dict[str, object]]) -> None:
    absent = {"rationale": None, "panel_version": None, "agreement": None}
    contracts.write(
        pa.Table.from_pylist([absent | row for row in rows], contracts.JUDGMENTS),
        world / "judgments",
        contracts.JUDGMENTS,
    )


def write_mined(world: Path, pairs: list[tuple[str, str]]) -> None:
    numbers = dict.fromkeys(("score", "uncertainty", "disagreement", "engagement", "novelty", "priority"), 0.5)
    rows = [{"query": q, "locale": "en", "doc_id": d, "agents": [], **numbers} for q, d in pairs]
    contracts.write(pa.Table.from_pylist(rows, contracts.MINED_PAIRS), world / "mined" / "pairs", contracts.MINED_PAIRS)


#: What annotate reads.
READ = ("mined", "validated", "judgments", "knowledge")


def settings_of(cycle: int, **judging: object) -> Settings:
    window = CycleSettings(number=cycle, start=datetime(2017, 1, 1, tzinfo=UTC), end=datetime(2018, 1, 1, tzinfo=UTC))
    return Settings(cycle=window, judging=JudgingSettings(**judging))


def run(world: Path, cycle: int = 2, **judging: object) -> Path:
    out = world / "out"
    mined, validated, judgments, knowledge = (world / name for name in READ)
    figures = annotate(mined, validated, judgments, knowledge, out, settings_of(cycle, **judging))
    (world / "figures.json").write_text(json.dumps(figures))
    return out


def llm(url: str, name: str = "fake", **fields: object) -> dict[str, object]:
    """An LLM judge behind a fake endpoint, as it stands in params.yaml, impatient."""
    quick: dict[str, object] = {
        "paths": 1,
        "temperature": 0.0,
        "backoff_seconds": 0.01,
        "patience_seconds": 0.2,
        "requests_per_minute": 100_000,
    }
    prices = {"price_per_million_input": 1.0, "price_per_million_output": 4.0, "tokens_per_minute": 100_000_000}
    return {"name": name, "base_url": url, "model": "fake-1", **quick, **prices, **fields}


def of_llms(world: Path, *judges: dict[str, object], **judging: object) -> dict[str, object]:
    """The ``judging`` section with these LLM judges only."""
    trust = {"min_gold_pairs": 5, **judging.pop("trust", {})}
    fixed = {"offline": False, "llms": judges, "ledger": world / "ledger.sqlite", "trust": trust}
    return {**fixed, **judging}


def run_llms(world: Path, *judges: dict[str, object], **judging: object) -> Path:
    """Annotate with these LLM judges only."""
    return run(world, **of_llms(world, *judges, **judging))


def foresee(world: Path, *judges: dict[str, object]) -> dict[str, dict[str, float]]:
    """Estimate what ``run_llms`` will cost."""
    mined, validated, judgments, knowledge = (world / name for name in READ)
    return estimate(mined, validated, judgments, knowledge, settings_of(2, **of_llms(world, *judges)))


def content(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.*"))}


def ask(world: Path, *judges: dict[str, object], **judging: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Annotate three pairs with few checks; return the votes and the first judge's counts of this run."""
    write_mined(world, [("green", "en-4"), ("green", "en-2"), ("pet", "en-0")])
    few = {"gold_pairs": 4, "canaries": 0, "padded": 0, "repeats": 0, "min_gold_pairs": 1}
    out = run_llms(world, *judges, trust=few, agreement="unanimous", **judging)
    counts = json.loads((out / "annotate.json").read_text())["llms"][judges[0]["name"]]["this_run"]
    return contracts.read(out / "votes", contracts.VOTES).to_pylist(), counts
