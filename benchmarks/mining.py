"""Do the mining agents find the pairs on which the champion is wrong? The emoji world's hidden truth tells.

    python benchmarks/mining.py WORKSPACE [--budget 500 --budget 2500] [--learn 500]

Founds the emoji world in WORKSPACE if it is not there (simulated users; a few minutes), opens window 1, scores as the
mine step does, and selects with all agents, each alone, all but each, and at random from the shown candidates. A pair
is wrong when the champion's expected grade is off by a grade or more. With ``--learn BUDGET`` (about two minutes a
selection) a challenger is then trained on the true grades of each agent's own selection, of all and of random ones, and
``ndcg_per_1000`` is what NDCG@10 on the test sets gains for 1,000 labels; ``replay``, which has no new label, says how
much of a gain is not the labels'. Writes benchmarks/results/mining.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts, release, relevance, stream, training, validation
from serm import engine as engines
from serm.atomic import write_json
from serm.mining.agents import AGENTS
from serm.mining.mine import Inputs, Scored, look
from serm.mining.selection import select
from serm.pairs import test_sets
from serm.settings import Settings
from serm.worlds.emoji import EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

RESULTS = Path(__file__).parent / "results" / "mining.json"
KEY = ("query", "locale", "doc_id")


def window(emoji: EmojiStream) -> Settings:
    """Bring the workspace to a validated first window, and return its settings."""
    if not emoji.is_founded:
        emoji.found()
    emoji.open_window(1)
    settings, cycle = emoji.settings(), emoji.path / "cycle"
    if not (cycle / "validate").exists():
        stream.ingest(emoji.path / "log", cycle / "ingest", settings)
        state = emoji.path / "state"
        inputs = (cycle / "ingest", emoji.path / "documents", state / "judgments", state / "profiles")
        validation.validate(*inputs, cycle / "validate", settings)
    return settings


def evidence_of(workspace: Path, settings: Settings) -> tuple[Scored, pa.Table]:
    """Return what the miner knows of the window (it does not see the truth), and all that it could mine.

    Those are the shown candidates, and after them the scored pairs that nobody was shown.
    """
    validated, state = workspace / "cycle" / "validate", workspace / "state"
    with engines.connect(settings.engine) as engine, tempfile.TemporaryDirectory() as finished:
        documents = contracts.scan(engine, validated / "documents", contracts.DOCUMENTS)
        inputs = Inputs(
            contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS),
            contracts.scan(engine, state / "reference", contracts.IMPRESSIONS),
            documents,
            contracts.scan(engine, state / "judgments", contracts.JUDGMENTS),
            test_sets.read(engine, workspace / "tests"),
            relevance.load(state / "champion"),
            relevance.document_text,
        )
        evidence = look(engine, inputs, settings, Path(finished))
        pairs = engine.table("pairs")
        pairs = pairs.filter(pairs.impressions >= settings.mining.min_impressions, ~pairs.judged)
        pairs = pairs.anti_join(inputs.tests, "query")
        # The champion served this window, so the log has its score of every pair.
        shown = pairs.semi_join(documents, "doc_id").mutate(score=pairs.logged).order_by("pair").to_pyarrow()
    names = ["pair", "query", "locale", "doc_id", "score", "impressions"]
    unseen = evidence.scored.filter(pc.equal(evidence.scored["impressions"], 0))
    return evidence, pa.concat_tables([shown.select(names), unseen.select(names)], promote_options="permissive")


def excess(pairs: pa.Table, world: EmojiWorld) -> np.ndarray:
    """Return for each pair how many grades its score lies above the true grade."""
    above: np.ndarray = pairs["score"].to_numpy() - truth_of(pairs, world)
    return above


def truth_of(pairs: pa.Table, world: EmojiWorld) -> np.ndarray:
    """Return the true grade of each pair."""
    return world.truth.lookup(*(pairs[name].combine_chunks() for name in KEY))


def selections(evidence: Scored, candidates: pa.Table, settings: Settings, budget: int) -> dict[str, np.ndarray]:
    """Return the numbers of the pairs that each way of choosing mines at one budget."""
    options = settings.mining.model_copy(update={"budget": budget})
    named_by = np.array(evidence.opinions["agent"].to_pylist())

    def mined(agents: list[str]) -> np.ndarray:
        opinions = evidence.opinions.filter(pa.array(np.isin(named_by, agents)))
        return select(evidence.scored, opinions, evidence.summary["thresholds"]["novelty"], options).pair

    agents = list(AGENTS)
    union = mined(agents)
    shown = candidates.filter(pc.greater(candidates["impressions"], 0))
    every = shown["pair"].to_numpy()
    best = np.argsort(-shown["score"].to_numpy(), kind="stable")[: len(union)]
    generator = np.random.default_rng(settings.mining.seed)
    return (
        {"all": union, "random": generator.permutation(every)[: len(union)], "highest scores": every[best]}
        | {f"only {agent}": mined([agent]) for agent in agents}
        | {f"without {agent}": mined([other for other in agents if other != agent]) for agent in agents}
    )


def measure(chosen: dict[str, np.ndarray], candidates: pa.Table, above: np.ndarray) -> dict[str, Any]:
    """Return what each selection holds; ``above`` is ``excess`` of the ``candidates``.

    ``too_high`` and ``too_low`` are shares of what is mined; ``found`` and ``found_too_low`` of what is wrong among all
    candidates; ``lift`` is over the share that is wrong among shown ones, and ``most_lift`` what no choice of so many
    pairs can exceed, because there are no more wrong ones. The pairs with the highest scores are a control: a champion
    that over-scores is wrong about many of them.
    """
    every, shown = candidates["pair"].to_numpy(), candidates["impressions"].to_numpy() > 0
    wrong, low = np.abs(above) >= 1, above <= -1

    def figures(pairs: np.ndarray) -> dict[str, Any]:
        mined = np.isin(every, pairs)
        share, too_low = (float(kind[mined].sum() / max(len(pairs), 1)) for kind in (wrong, low))
        measured = {
            "wrong": share,
            "too_high": share - too_low,
            "too_low": too_low,
            "lift": share / float(wrong[shown].mean()),
            "most_lift": min(1.0, float(wrong.sum()) / max(len(pairs), 1)) / float(wrong[shown].mean()),
            "found": float(wrong[mined].sum() / wrong.sum()),
            "found_too_low": float(low[mined].sum() / low.sum()),
        }
        return {"mined": len(pairs), **{name: round(value, 4) for name, value in measured.items()}}

    alone = {name.removeprefix("only "): pairs for name, pairs in chosen.items() if name.startswith("only ")}
    overlap = {
        one: {
            other: round(len(np.intersect1d(pairs, others)) / max(len(pairs), 1), 3)
            for other, others in alone.items()
            if other != one
        }
        for one, pairs in alone.items()
    }
    return {name: figures(pairs) for name, pairs in chosen.items()} | {"overlap": overlap}


def learn(
    emoji: EmojiStream, chosen: dict[str, np.ndarray], candidates: pa.Table, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train on the true grades of each selection, and yield what the test sets gain over the champion."""
    path, state, validated = emoji.path, emoji.path / "state", emoji.path / "cycle" / "validate"
    every, truth = candidates["pair"].to_numpy(), truth_of(candidates, emoji.world)
    for name, pairs in {"replay": np.array([], dtype=np.int64), **chosen}.items():
        rows = np.flatnonzero(np.isin(every, pairs))
        labels = {key: candidates[key].take(pa.array(rows)) for key in KEY}
        labels |= {"grade": pa.array(truth[rows], pa.int8()), "source": pa.array(["human"] * len(rows), pa.string())}
        labels |= {"cycle": pa.array([settings.cycle.number] * len(rows), pa.int32())}
        for column in ("rationale", "panel_version", "agreement", "distribution"):
            labels[column] = pa.nulls(len(rows), contracts.JUDGMENTS.field(column).type)
        there = path / "learn"
        contracts.write(pa.table(labels), there / "annotate" / "judgments", contracts.JUDGMENTS)
        contracts.write(contracts.JUDGMENTS.empty_table(), there / "annotate" / "shown", contracts.JUDGMENTS)
        training.train(
            state / "champion", state / "judgments", there / "annotate", validated, there / "train", settings
        )
        inputs = (
            state / "champion",
            there / "train",
            there / "annotate",
            path / "tests",
            validated,
            state / "reference",
        )
        gains = release.evaluate(*inputs, there / "evaluate", settings)
        found: dict[str, Any] = {"labels": len(rows)}
        for test in ("frozen", "rolling"):
            gain = float(gains[f"{test}_gain"])
            found[test] = {"gain": gain, "p": gains[f"{test}_p"]}
            if len(rows):
                found[test]["ndcg_per_1000"] = round(gain / len(rows) * 1000, 4)
        yield name, found


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--budget", type=int, action="append")
    parser.add_argument("--learn", type=int)
    arguments = parser.parse_args()
    emoji = EmojiStream(arguments.workspace)
    settings = window(emoji)
    evidence, candidates = evidence_of(arguments.workspace, settings)
    above = excess(candidates, emoji.world)
    shown = candidates["impressions"].to_numpy() > 0
    results: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "users": "simulated",
        "seeds": {"world": emoji.world.seed, "mining": settings.mining.seed},
        "candidates": int(shown.sum()),
        "scored": evidence.summary["scored"],
        "wrong": round(float((np.abs(above) >= 1)[shown].mean()), 4),
        "too_low": round(float((above <= -1)[shown].mean()), 4),
        "budgets": {
            str(budget): measure(selections(evidence, candidates, settings, budget), candidates, above)
            for budget in arguments.budget or (500, 2500)
        },
    }
    write_json(RESULTS, results)
    if arguments.learn:
        chosen = selections(evidence, candidates, settings, arguments.learn)
        chosen = {name: pairs for name, pairs in chosen.items() if not name.startswith("without ")}
        results["learnt"] = {"budget": arguments.learn}
        for name, found in learn(emoji, chosen, candidates, settings):
            results["learnt"][name] = found
            write_json(RESULTS, results)
    json.dump(results, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
