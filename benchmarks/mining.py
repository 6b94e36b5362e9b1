"""Do the mining agents find the pairs on which the champion is wrong? The emoji world's hidden truth tells.

    python benchmarks/mining.py WORKSPACE [--budget 500 --budget 2500]

Founds the emoji world in WORKSPACE if it is not there (simulated users; a few minutes), opens window 1, scores as the
mine step does, and selects with all agents, each alone, all but each, and from all candidates at random. Writes
benchmarks/results/mining.json. A pair is wrong when the champion's expected grade is off by a grade or more.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serm import contracts, relevance, stream, validation
from serm import engine as engines
from serm.mining.agents import AGENTS
from serm.mining.miner import Evidence, look
from serm.mining.selection import select
from serm.settings import Settings
from serm.worlds.emoji import EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

RESULTS = Path(__file__).parent / "results" / "mining.json"
RANDOM_DRAWS = 200


def window(emoji: EmojiStream) -> Settings:
    """Bring the workspace to a validated first window, and return its settings."""
    if not emoji.is_founded:
        emoji.found()
    emoji.open_window(1)
    settings, cycle = emoji.settings(), emoji.path / "cycle"
    if not (cycle / "validate").exists():
        stream.ingest(emoji.path / "log", cycle / "ingest", settings)
        validation.validate(cycle / "ingest", emoji.path / "documents", cycle / "validate", settings)
    return settings


def evidence_of(workspace: Path, settings: Settings) -> tuple[Evidence, pa.Table]:
    """Return what the miner knows of the window (it does not see the truth), and all its candidates."""
    validated = workspace / "cycle" / "validate"
    with engines.connect(settings.engine) as engine:
        documents = contracts.scan(engine, validated / "documents", contracts.DOCUMENTS)
        evidence = look(
            engine,
            contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS),
            documents,
            contracts.scan(engine, workspace / "state" / "judgments", contracts.JUDGMENTS),
            relevance.load(workspace / "state" / "champion"),
            relevance.document_text,
            settings,
        )
        pairs = engine.table("pairs")
        pairs = pairs.filter(pairs.impressions >= settings.mining.min_impressions, ~pairs.judged)
        # The champion served this window, so the log has its score of every pair.
        candidates = pairs.semi_join(documents, "doc_id").mutate(score=pairs.logged).order_by("pair").to_pyarrow()
    return evidence, candidates


def excess(pairs: pa.Table, world: EmojiWorld) -> np.ndarray:
    """Return for each pair how many grades its score lies above the true grade."""
    truth = world.truth.lookup(*(pairs[name].combine_chunks() for name in ("query", "locale", "doc_id")))
    above: np.ndarray = pairs["score"].to_numpy() - truth
    return above


def measure(
    evidence: Evidence, candidates: pa.Table, above: np.ndarray, settings: Settings, budget: int
) -> dict[str, Any]:
    """Return the yield of every selection at one budget; ``above`` is ``excess`` of the ``candidates``.

    ``too_high`` and ``too_low`` are shares of what is mined; ``found`` and ``found_too_low`` of what is wrong. The
    pairs with the highest scores are a control: a champion that over-scores is wrong about many of them.
    """
    options = settings.mining.model_copy(update={"budget": budget})
    every = candidates["pair"].to_numpy()
    wrong, low = np.abs(above) >= 1, above <= -1
    named_by = np.array(evidence.opinions["agent"].to_pylist())

    def mined(agents: list[str]) -> np.ndarray:
        opinions = evidence.opinions.filter(pa.array(np.isin(named_by, agents)))
        return select(evidence.scored, opinions, options).pair

    def figures(pairs: np.ndarray) -> dict[str, Any]:
        chosen = np.isin(every, pairs)
        share, too_low = (float(kind[chosen].sum() / max(len(pairs), 1)) for kind in (wrong, low))
        measured = {
            "wrong": share,
            "too_high": share - too_low,
            "too_low": too_low,
            "lift": share / float(wrong.mean()),
            "found": float(wrong[chosen].sum() / wrong.sum()),
            "found_too_low": float(low[chosen].sum() / low.sum()),
        }
        return {"mined": len(pairs), **{name: round(value, 4) for name, value in measured.items()}}

    agents = list(AGENTS)
    alone = {agent: mined([agent]) for agent in agents}
    union = mined(agents)
    generator = np.random.default_rng(settings.mining.seed)
    draws = [wrong[generator.permutation(len(wrong))[: len(union)]].mean() for _ in range(RANDOM_DRAWS)]
    return {
        "all": figures(union),
        "random": {"mined": len(union), "wrong": round(float(np.mean(draws)), 4)},
        "highest scores": figures(every[np.argsort(-candidates["score"].to_numpy(), kind="stable")[: len(union)]]),
        "alone": {agent: figures(pairs) for agent, pairs in alone.items()},
        "all but": {agent: figures(mined([other for other in agents if other != agent])) for agent in agents},
        "overlap": {
            one: {
                other: round(len(np.intersect1d(alone[one], alone[other])) / max(len(alone[one]), 1), 3)
                for other in agents
                if other != one
            }
            for one in agents
        },
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--budget", type=int, action="append")
    arguments = parser.parse_args()
    emoji = EmojiStream(arguments.workspace)
    settings = window(emoji)
    evidence, candidates = evidence_of(arguments.workspace, settings)
    above = excess(candidates, emoji.world)
    results = {
        "command": "python benchmarks/mining.py WORKSPACE",
        "date": date.today().isoformat(),
        "users": "simulated",
        "seeds": {"world": emoji.world.seed, "mining": settings.mining.seed},
        "candidates": candidates.num_rows,
        "scored": evidence.summary["scored"],
        "wrong": round(float((np.abs(above) >= 1).mean()), 4),
        "too_low": round(float((above <= -1).mean()), 4),
        "budgets": {
            str(budget): measure(evidence, candidates, above, settings, budget)
            for budget in arguments.budget or (500, 2500)
        },
    }
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    json.dump(results, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
