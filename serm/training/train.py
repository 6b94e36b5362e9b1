"""The train step: a challenger from new, earlier and seed judgments; and the first champion, from the seed alone."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serm import relevance
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.evaluation.measures import ndcg
from serm.relevance import RelevanceModel
from serm.relevance.encoder import load_encoder
from serm.settings import Settings, TrainingSettings
from serm.step import Figures, step
from serm.training.examples import Examples, choose, draw, held_out, read
from serm.training.fit import Targets, fine_tune, fit_cosine, reproducible


@step
def train(champion: Path, judgments: Path, annotated: Path, validated: Path, out: Path, settings: Settings) -> Figures:
    """Fine-tune a challenger on this cycle's judgments, earlier ones and the seed.

    It continues from the champion, with earlier and seed judgments replayed beside the new ones (arXiv 2601.09515
    retrains on new, all earlier and original data each round). So it also passes over old judgments once more: what a
    challenger gains is not the new labels' alone (benchmarks/evolution.py has the control without them).

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        judgments: a JUDGMENTS dataset, everything known before this cycle.
        annotated: the annotate step's output; its kept labels are ``annotated/judgments``.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes ``model/`` (the challenger) and ``train.json``: pairs by source, the loss curve, the temperature
            (fitted on half of the held-out seed queries), and on their other half the loss and NDCG@10 of both
            models.
        settings: uses the sections ``relevance`` and ``training``.

    Raises:
        UserError: a dataset or the champion is missing, or a judged document is not in the catalogue.
    """
    options = settings.training
    documents = validated / "documents"
    earlier = read(judgments, documents, options)
    new = read(annotated / "judgments", documents, options)
    out_rows, calibrating = _held_out(earlier, options)
    examples = choose(earlier[~out_rows], new, options)
    before = relevance.load(champion)
    with reproducible(options):
        model = RelevanceModel(before.encoder, copy.deepcopy(before.residual))
        curve, figures = _fit(model, examples, earlier[calibrating], settings)
        kept = earlier[out_rows & ~calibrating]
        remembered = {"champion": _measure(before, kept), "challenger": _measure(model, kept)}
    with replace_directory(out) as beside:
        model.save(beside / "model")
        summary = {
            "champion": before.version,
            "challenger": model.version,
            "pairs": {"new": len(new), "used": len(examples), "by_source": examples.by_source()},
            "loss": curve,
            "temperature": figures["temperature"],
            "held_out_seed": {"pairs": len(kept), **remembered},
        }
        write_json(beside / "train.json", summary)
    return {
        "new_labels": len(new),
        **figures,
        **{f"held_out_{name}": value for name, value in remembered["challenger"].items()},
    }


@step
def bootstrap(judgments: Path, documents: Path, out: Path, settings: Settings) -> Figures:
    """Train the first champion, the model directory ``out``, from the base encoder and the seed judgments.

    Args:
        judgments: a JUDGMENTS dataset.
        documents: a DOCUMENTS dataset.
        out: becomes the model's directory.
        settings: uses the sections ``relevance`` (``base``) and ``training``.

    Raises:
        UserError: the base encoder cannot be loaded, a dataset is missing, or a judged document is not in the
            catalogue.
    """
    options = settings.training
    known = read(judgments, documents, options)
    out_rows, calibrating = _held_out(known, options)
    examples = draw(known[~out_rows], options.max_pairs, np.random.default_rng(options.seed))
    founding = options.model_copy(update={"epochs": options.founding_epochs})
    settings = settings.model_copy(update={"training": founding})
    with reproducible(options):
        encoder = load_encoder(settings.relevance.base, settings.relevance)
        model = RelevanceModel.from_encoder(encoder, settings.relevance.layers)
        _, figures = _fit(model, examples, known[calibrating], settings, fresh=True)
    model.save(out)
    return figures


def _held_out(examples: Examples, options: TrainingSettings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are held out from training, and which of those, half, are for the temperature."""
    return held_out(examples, options.held_out_share), held_out(examples, options.held_out_share / 2)


def _fit(
    model: RelevanceModel, examples: Examples, calibrating: Examples, settings: Settings, fresh: bool = False
) -> tuple[list[float], Figures]:
    """Train a model, a fresh one with its cosine fitted first, and calibrate it; return the loss curve and figures."""
    if not len(examples):
        raise UserError("no judgments to train on; add seed judgments to state/judgments.")
    targets = Targets(
        grades=torch.from_numpy(examples.grades),
        weights=torch.from_numpy(examples.weights).float(),
        groups=torch.from_numpy(examples.groups()),
    )
    pairs = model.pairs(*examples.texts())
    model.residual.ordinal.temperature.fill_(1.0)
    if fresh:
        fit_cosine(model, pairs, targets)
    start = time.perf_counter()
    curve = fine_tune(model, pairs, targets, settings.training)
    seconds = time.perf_counter() - start
    scores = model.forward(model.pairs(*calibrating.texts()))
    temperature = model.residual.ordinal.calibrate(scores.clone(), torch.from_numpy(calibrating.grades))
    figures: Figures = {
        "pairs": len(examples),
        "pairs_per_second": round(len(examples) * settings.training.epochs / seconds, 1),
        "loss": round(curve[-1], 4),
        "temperature": round(temperature, 4),
    }
    return curve, figures


def _measure(model: RelevanceModel, examples: Examples) -> dict[str, float]:
    """Return the loss and mean NDCG@10 of a model on held-out examples; nothing where there are none."""
    if not len(examples):
        return {}
    scores = model.forward(model.pairs(*examples.texts()))
    with torch.inference_mode():
        loss = -model.residual.ordinal.log_likelihood(scores, torch.from_numpy(examples.grades)).mean()
    ranked: NDArray[np.float64] = scores.double().numpy()
    return {
        "loss": round(float(loss), 4),
        "ndcg_10": round(float(ndcg(examples.groups(), examples.grades, ranked, (10,), seed=0).mean()), 4),
    }
