"""The train step: a challenger from new, earlier and seed judgments; and the first champion, from the seed alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np

from serm import engine as engines
from serm import relevance
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.relevance import Model, RelevanceModel
from serm.relevance.encoder import load_encoder
from serm.settings import RelevanceSettings, Settings
from serm.step import Figures, step
from serm.training.checkpoint import Checkpoints, checkpoints_of
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.examples import Examples, choose, draw, read_known
from serm.training.fit import Fitted, fine_tune, reproducible
from serm.training.forgetting import remembered
from serm.training.held_out import HeldOut
from serm.training.processes import processes
from serm.training.task import Task
from serm.training.tracking import track, write_provenance


@step
def train(champion: Path, judgments: Path, annotated: Path, validated: Path, out: Path, settings: Settings) -> Figures:
    """Fine-tune a challenger on this cycle's judgments, earlier ones and the seed.

    It continues from the champion, with earlier and seed judgments replayed beside the new ones (arXiv 2601.09515
    retrains on new, all earlier and original data each round). So it also passes over old judgments once more: what a
    challenger gains is not the new labels' alone (benchmarks/evolution.py has the control without them). No judgment of
    a held-out query is trained on (``HeldOut``), and none of a document that is gone.

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        judgments: a JUDGMENTS dataset, everything known before this cycle.
        annotated: the annotate step's output; its kept labels are ``annotated/judgments``.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes ``model/`` (the challenger, with ``provenance.json``); ``tracking/``, DVC's metrics and plots; and
            ``train.json``: pairs by source and by origin, how many judgments of held-out queries were left out and
            how many are retired, the loss curve, the temperature (fitted on half of the held-out seed queries), and on
            their other half what is remembered (``forgetting.remembered``). While it trains, ``<out>.checkpoint/``
            beside it holds the run's state, from which the same call goes on when it was killed.
        settings: uses the sections ``relevance``, ``training`` and ``engine``.

    Raises:
        UserError: a dataset or the champion is missing, or no judged document is in the catalogue.
    """
    options = settings.training
    documents = validated / "documents"
    with engines.connect(settings.engine) as engine:
        known = read_known(engine, judgments, documents, options)
        labels = read_known(engine, annotated / "judgments", documents, options, new=True)
    held_out = HeldOut.of(known, options.held_out_share)
    earlier, new = held_out.without(known.examples), held_out.without(labels.examples)
    examples = choose(earlier, new, options)
    before = relevance.load(champion, settings.relevance)
    checkpoints = checkpoints_of(out, settings, [before.version, examples, held_out.calibrating])
    with reproducible(options):
        model = _copy(before, champion)
        fitted, figures = _fit(model, examples, held_out.calibrating, settings, checkpoints)
        memory = remembered(before, model, held_out.remembering)
    aside = {
        "retired": known.retired + labels.retired,
        "of_held_out_queries": len(known.examples) + len(labels.examples) - len(earlier) - len(new),
    }
    if processes().is_main_process:
        with replace_directory(out) as beside:
            model.save(beside / "model")
            inputs = {"champion": champion, "judgments": judgments, "documents": documents}
            write_provenance(beside / "model", settings, {**inputs, "annotated": annotated / "judgments"})
            track(beside / "tracking", fitted, {f"held_out_{k}": v for k, v in memory["challenger"].items()})
            summary = {
                "champion": before.version,
                "challenger": model.version,
                "pairs": {
                    "new": len(new),
                    "used": len(examples),
                    **aside,
                    "by_source": examples.by_source(),
                    "by_origin": examples.by_origin(),
                },
                "loss": fitted.curve,
                "steps": {"taken": fitted.steps, "kept": fitted.kept, "watched": fitted.watched},
                "temperature": figures["temperature"],
                "held_out_seed": memory,
            }
            write_json(beside / "train.json", summary)
        checkpoints.remove()
    return {
        "new_labels": len(new),
        "retired_judgments": aside["retired"],
        **figures,
        **{f"held_out_{name}": value for name, value in memory["challenger"].items()},
    }


@step
def bootstrap(judgments: Path, documents: Path, out: Path, settings: Settings) -> Figures:
    """Train the first champion, the model directory ``out``, from the base encoder and the seed judgments.

    Args:
        judgments: a JUDGMENTS dataset.
        documents: a DOCUMENTS dataset.
        out: becomes the model's directory.
        settings: uses the sections ``relevance`` (``base``), ``training`` and ``engine``.

    Raises:
        UserError: the base encoder cannot be loaded, a dataset is missing, or no judged document is in the catalogue.
    """
    options = settings.training
    with engines.connect(settings.engine) as engine:
        known = read_known(engine, judgments, documents, options)
    held_out = HeldOut.of(known, options.held_out_share)
    seen = held_out.without(known.examples)
    examples = draw(seen[seen.weights > 0], options.max_pairs, np.random.default_rng(options.seed))
    founding = options.model_copy(update={"epochs": options.founding_epochs})
    settings = settings.model_copy(update={"training": founding})
    checkpoints = checkpoints_of(out, settings, [examples, held_out.calibrating])
    with reproducible(options):
        model = _start(settings.relevance)
        _, figures = _fit(model, examples, held_out.calibrating, settings, checkpoints, fresh=True)
    if processes().is_main_process:
        model.save(out)
        write_provenance(out, settings, {"judgments": judgments, "documents": documents})
        checkpoints.remove()
    return {**figures, "retired_judgments": known.retired}


def _start(settings: RelevanceSettings) -> Model:
    """Return the model of the settings' family, untrained."""
    if settings.family == "generative":
        from serm.relevance.generative import GenerativeModel

        return GenerativeModel.from_base(settings.base, settings)
    return RelevanceModel.from_encoder(load_encoder(settings.base, settings), settings.layers)


def _copy(champion: Model, path: Path) -> Model:
    """Return a model to train that starts as ``champion``, which stays as it is."""
    if isinstance(champion, RelevanceModel):
        return RelevanceModel(champion.encoder, copy.deepcopy(champion.residual))
    return relevance.load(path)


def _fit(
    model: Model,
    examples: Examples,
    calibrating: Examples,
    settings: Settings,
    checkpoints: Checkpoints,
    fresh: bool = False,
) -> tuple[Fitted, Figures]:
    """Train a model, a fresh one with its cosine fitted first, and calibrate it; return what it did and figures."""
    options = settings.training
    if not len(examples):
        raise UserError("no judgments to train on; add seed judgments to state/judgments.")
    if options.patience and not len(calibrating):
        raise UserError("training.patience needs held-out seed queries to look at; raise training.held_out_share.")
    task = _task(model, examples, calibrating, settings)
    if fresh and isinstance(task, CrossEncoderTask):
        task.fit_cosine()
    fitted = fine_tune(task, options, checkpoints)
    temperature = task.calibrate()
    figures: Figures = {
        "pairs": len(examples),
        "pairs_per_second": round(fitted.pairs_per_second, 1),
        "loss": round(fitted.curve[-1], 4),
        "temperature": round(temperature, 4),
    }
    return fitted, figures


def _task(model: Model, examples: Examples, held_out: Examples, settings: Settings) -> Task:
    """Return what the model's family trains on."""
    if isinstance(model, RelevanceModel):
        return CrossEncoderTask.of(model, examples, held_out, settings.training)
    from serm.relevance.generative import GenerativeModel
    from serm.training.generative import GenerativeTask  # peft: not for those who train cross-encoders

    return GenerativeTask(cast(GenerativeModel, model), examples, held_out, settings)
