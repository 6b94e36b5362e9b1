"""Does the loop improve a model, and is it the new labels that do it? Several emoji worlds, three cycles each.

    python benchmarks/evolution.py DIRECTORY --seed 1 --seed 2 --seed 3

Each seed is a world of its own: other seed judgments, test queries, simulated users and traffic. In each cycle the loop
runs as in ``serm demo``, and from the same champion two controls are trained: ``replay`` (no new labels, so what more
steps on the old ones bring) and ``truth`` (the hidden truth of the mined pairs, so what a perfect panel would bring).
All are compared with that champion by the evaluate step; at the end of a world the last champion is compared with the
first. Writes benchmarks/results/evolution.json after each cycle; run again, it goes on after the last finished world.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from serm import contracts, judging, mining, release, stream, training, validation
from serm.atomic import write_json
from serm.settings import Settings
from serm.workspace.merge import merged
from serm.worlds.emoji import WINDOWS, EmojiWorld
from serm.worlds.emoji_stream import EmojiStream

RESULTS = Path(__file__).parent / "results" / "evolution.json"
KEY = ("query", "locale", "doc_id")


def main() -> None:
    """Run the worlds that the results lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, action="append", required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"worlds": {}}
    results |= {"command": "python benchmarks/evolution.py DIRECTORY --seed S ...", "users": "simulated"}
    for seed in arguments.seed:
        for cycles in world(arguments.directory / f"seed-{seed}", seed):
            results["worlds"][str(seed)] = {"date": date.today().isoformat(), **cycles}
            write_json(arguments.out, results)
            print(json.dumps(cycles[max(cycles)]), flush=True)


def world(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Evolve one world through its windows, and yield what is known of it after each and at the end."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(path.name + ".remote"), ignore_errors=True)
    emoji = EmojiStream(path, EmojiWorld(seed=seed))
    emoji.found()
    shutil.copytree(path / "state" / "champion", path / "first" / "model")
    found: dict[str, Any] = {}
    for number in range(1, len(WINDOWS)):
        emoji.open_window(number)
        found[f"cycle {number}"] = cycle(path, emoji.settings(), emoji.world)
        yield found
    shutil.copytree(path / "state" / "champion", path / "last" / "model")
    found["last champion beside the first"] = compare(
        path / "first" / "model", path / "last", path, path / "compared", emoji.settings()
    )
    yield found


def cycle(path: Path, settings: Settings, emoji: EmojiWorld) -> dict[str, Any]:
    """Run one cycle with its controls, and move the state on as ``serm advance`` does."""
    state, here = path / "state", path / "cycle"
    champion, judgments, validated = state / "champion", state / "judgments", here / "validate"
    stream.ingest(path / "log", here / "ingest", settings)
    inputs = (here / "ingest", path / "documents", judgments, state / "profiles")
    validation.validate(*inputs, validated, settings)
    mining.mine(validated, state / "reference", champion, judgments, path / "tests", here / "mine", settings)
    annotated = judging.annotate(here / "mine", validated, judgments, path / "knowledge", here / "annotate", settings)
    labels = contracts.read(here / "annotate" / "judgments", contracts.JUDGMENTS)
    mined = contracts.read(here / "mine" / "pairs", contracts.MINED_PAIRS)
    truth = emoji.truth.lookup(*(mined[name].combine_chunks() for name in KEY))
    panel = emoji.truth.lookup(*(labels[name].combine_chunks() for name in KEY))
    arms = {"loop": labels, "replay": labels.slice(0, 0), "truth": _true(mined, truth, settings)}
    found: dict[str, Any] = {
        "mined": mined.num_rows,
        "kept": annotated["kept"],
        "labels_right": round(float((labels["grade"].to_numpy() == panel).mean()), 4),
    }
    for arm, rows in arms.items():
        there = path / "arms" / arm
        contracts.write(rows, there / "annotate" / "judgments", contracts.JUDGMENTS)
        training.train(champion, judgments, there / "annotate", validated, there / "train", settings)
        found[arm] = compare(champion, there / "train", path, there / "evaluate", settings)
    if found["loop"]["gate"] == "passed":
        shutil.rmtree(champion)
        shutil.copytree(path / "arms" / "loop" / "train" / "model", champion)
    both = merged(contracts.read(judgments, contracts.JUDGMENTS), labels)
    contracts.write(both, judgments, contracts.JUDGMENTS)
    contracts.write(
        contracts.read(validated / "impressions", contracts.IMPRESSIONS), state / "reference", contracts.IMPRESSIONS
    )
    contracts.write(contracts.read(validated / "profiles", contracts.PROFILES), state / "profiles", contracts.PROFILES)
    return found


def compare(champion: Path, trained: Path, path: Path, out: Path, settings: Settings) -> dict[str, Any]:
    """Return the gate's result, and on each test set both NDCG@10, their difference, its interval and p.

    Of the sets (frozen, rolling) and documents (served, pool).
    """
    inputs = (path / "cycle" / "annotate", path / "tests", path / "cycle" / "validate", path / "state" / "reference")
    figures = release.evaluate(champion, trained, *inputs, out, settings)
    measured = json.loads((out / "evaluate.json").read_text())["sets"]
    names = ("champion", "challenger", "difference", "low", "high", "p")
    return {"gate": figures["gate"]} | {
        name: {
            documents: {key: round(pairs["all"]["all"]["measures"]["NDCG@10"][key], 4) for key in names}
            for documents, pairs in of_set.items()
        }
        for name, of_set in measured.items()
    }


def _true(mined: pa.Table, truth: Any, settings: Settings) -> pa.Table:
    rows = {name: mined[name] for name in KEY} | {
        "grade": pa.array(truth, pa.int8()),
        "rationale": pa.nulls(mined.num_rows, pa.string()),
        "source": pa.array(["human"] * mined.num_rows),
        "cycle": pa.array([settings.cycle.number] * mined.num_rows, pa.int32()),
        "panel_version": pa.nulls(mined.num_rows, pa.string()),
        "agreement": pa.nulls(mined.num_rows, pa.float64()),
    }
    table = pa.table({name: rows[name] for name in contracts.JUDGMENTS.names})
    return table.filter(pa.array(truth >= 0))


if __name__ == "__main__":
    main()
