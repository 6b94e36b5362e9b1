"""The train step: a challenger from new, earlier and seed judgments, and its controls; and the first champion."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from serm import engine as engines
from serm import relevance
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.relevance import Model, RelevanceModel
from serm.relevance.bases import load_encoder
from serm.settings import RelevanceSettings, Settings
from serm.step import Figures, step
from serm.training.anchors import draw_anchors
from serm.training.arms import CHALLENGER, Arm, arms
from serm.training.checkpoint import Checkpoints, checkpoints_of
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.examples import choose, draw, read_known
from serm.training.fit import Fitted, fine_tune, reproducible
from serm.training.forgetting import remembered
from serm.training.held_out import HeldOut
from serm.training.processes import processes
from serm.training.task import Task
from serm.training.tracking import track, write_provenance

FOUNDING = "first champion"


@step
def train(
    champion: Path,
    judgments: Path,
    annotated: Path,
    validated: Path,
    out: Path,
    settings: Settings,
    kept: Path | None = None,
) -> Figures:
    """Fine-tune a challenger on this cycle's judgments, earlier ones and the seed; and its controls.

    It continues from the champion, with earlier and seed judgments replayed beside the new ones (arXiv 2601.09515
    retrains on new, all earlier and original data each round). So it also passes over old judgments once more: what a
    challenger gains is not the new labels' alone, and the controls (``arms.arms``) say what more passes bring without
    them. Anchors hold it on what no judgment speaks of. No judgment of a held-out query is trained on (``HeldOut``),
    and none of a document that is gone.

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        judgments: a JUDGMENTS dataset, everything known before this cycle.
        annotated: the annotate step's output; its kept labels are ``annotated/judgments``, and what users judged alone
            is ``annotated/shown``.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes ``model/`` (the challenger, with ``provenance.json``); ``controls/NAME/``, the model of each of
            ``training.controls``, trained as often over its pairs from the same champion; ``tracking/``, DVC's metrics
            and plots; and ``train.json``: pairs by source and by origin, how many judgments of held-out queries were
            left out and how many are retired, the loss curve, the temperature (fitted on half of the held-out seed
            queries), on their other half what is remembered (``forgetting.remembered``), and steps, pairs and
            temperature of each control. While it trains, ``<out>.checkpoint/`` beside it holds the run's state, from
            which the same call goes on when it was killed, at the model it was at.
        settings: uses the sections ``relevance``, ``training`` and ``engine``.
        kept: a directory for that state in the place of the one beside ``out``.

    Raises:
        UserError: a dataset or the champion is missing, or no judged document is in the catalogue.
    """
    options = settings.training
    documents = validated / "documents"
    before = relevance.load(champion, settings.relevance)
    with engines.connect(settings.engine) as engine:
        known = read_known(engine, judgments, documents, options)
        labels = read_known(engine, annotated / "judgments", documents, options, "new")
        of_users = read_known(engine, annotated / "shown", documents, options, "shown")
        held_out = HeldOut.of(known, options.held_out_share)
        read = [one.examples for one in (known, labels, of_users)]
        earlier, new, shown = (held_out.without(one) for one in read)
        chosen = choose(earlier, new, shown, options)
        anchors = draw_anchors(engine, before, chosen, earlier + new + shown, documents, options)
    learned, calibrating = arms(before, chosen + anchors, earlier, held_out.calibrating, options)
    checkpoints = {
        name: checkpoints_of(out, settings, [before.version, name, arm.examples, calibrating.examples], kept)
        for name, arm in learned.items()
    }
    with reproducible(options):
        made: dict[str, Trained] = {}
        for name, arm in learned.items():
            steps = _as_often(made[CHALLENGER], arm) if made else options.steps or None
            made[name] = _fit(_copy(before, champion), arm, calibrating, settings, checkpoints[name], name, steps)
        challenger = made.pop(CHALLENGER)
        memory = remembered(before, challenger.model, held_out.remembering)
    used = challenger.arm.examples
    pairs = {
        "new": len(new),
        "shown": len(shown),
        "used": len(used),
        "retired": known.retired + labels.retired + of_users.retired,
        "of_held_out_queries": sum(map(len, read)) - len(earlier) - len(new) - len(shown),
        "by_source": used.by_source(),
        "by_origin": used.by_origin(),
    }
    if processes().is_main_process:
        with replace_directory(out) as beside:
            challenger.model.save(beside / "model")
            for name, control in made.items():
                control.model.save(beside / "controls" / name)
            inputs = {"champion": champion, "judgments": judgments, "documents": documents}
            annotation = {"annotated": annotated / "judgments", "shown": annotated / "shown"}
            write_provenance(beside / "model", settings, inputs | annotation)
            track(beside / "tracking", challenger.fitted, {f"held_out_{k}": v for k, v in memory["challenger"].items()})
            summary = {
                "champion": before.version,
                "challenger": challenger.model.version,
                "pairs": pairs,
                "loss": challenger.fitted.curve,
                "steps": challenger.steps,
                "temperature": challenger.temperature,
                "held_out_seed": memory,
                "controls": {name: control.summary() for name, control in made.items()},
            }
            write_json(beside / "train.json", summary)
        checkpoints[CHALLENGER].remove()
    return {
        "new_labels": len(new),
        "shown_labels": len(shown),
        "retired_judgments": pairs["retired"],
        **challenger.figures(),
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
    founding = options.model_copy(update={"epochs": options.founding_epochs, "champion_share": 0.0})
    settings = settings.model_copy(update={"training": founding})
    checkpoints = checkpoints_of(out, settings, [examples, held_out.calibrating])
    with reproducible(options):
        start = _start(settings.relevance)
        first = _fit(start, Arm(examples), Arm(held_out.calibrating), settings, checkpoints, FOUNDING)
    if processes().is_main_process:
        first.model.save(out)
        write_provenance(out, settings, {"judgments": judgments, "documents": documents})
        checkpoints.remove()
    return {**first.figures(), "retired_judgments": known.retired}


def _start(settings: RelevanceSettings) -> Model:
    """Return the model of the settings' family, untrained."""
    if settings.family == "generative":
        from serm.relevance.generative import GenerativeModel

        return GenerativeModel.from_base(settings.base, settings)
    return RelevanceModel.from_encoder(load_encoder(settings.base, settings), settings.layers)


def _as_often(challenger: Trained, arm: Arm) -> int:
    """Return the steps in which a control goes over its pairs as often as the challenger over its own, or as many.

    As many steps on far fewer pairs would overfit them: a peer that loses by that proves nothing of the labels.
    """
    return math.ceil(challenger.fitted.planned * min(1, len(arm.examples) / len(challenger.arm.examples)))


def _copy(champion: Model, path: Path) -> Model:
    """Return a model to train that starts as ``champion``, which stays as it is."""
    if isinstance(champion, RelevanceModel):
        return RelevanceModel(champion.encoder, copy.deepcopy(champion.residual))
    return relevance.load(path)


@dataclass(frozen=True)
class Trained:
    """A model after its training."""

    model: Model
    arm: Arm
    fitted: Fitted
    temperature: float

    @property
    def steps(self) -> dict[str, Any]:
        """Steps taken, the one whose weights were kept, and the losses watched."""
        return {"taken": self.fitted.steps, "kept": self.fitted.kept, "watched": self.fitted.watched}

    def summary(self) -> dict[str, Any]:
        """Return what train.json says of a control."""
        return {
            "version": self.model.version,
            "pairs": len(self.arm.examples),
            "steps": self.steps,
            "loss": self.fitted.curve[-1],
            "temperature": self.temperature,
        }

    def figures(self) -> Figures:
        """Return what the command line prints of it."""
        return {
            "pairs": len(self.arm.examples),
            "pairs_per_second": round(self.fitted.pairs_per_second, 1),
            "loss": round(self.fitted.curve[-1], 4),
            "temperature": self.temperature,
        }


def _fit(
    model: Model,
    arm: Arm,
    calibrating: Arm,
    settings: Settings,
    checkpoints: Checkpoints,
    name: str,
    steps: int | None = None,
) -> Trained:
    """Train a model, a first one with its cosine fitted before, and calibrate it."""
    options = settings.training
    if not len(arm.examples):
        raise UserError("no judgments to train on; add seed judgments to state/judgments.")
    if options.patience and not len(calibrating.examples):
        raise UserError("training.patience needs held-out seed queries to look at; raise training.held_out_share.")
    task = _task(model, arm, calibrating, settings)
    if name == FOUNDING and isinstance(task, CrossEncoderTask):
        task.fit_cosine()
    fitted = fine_tune(task, options, checkpoints, name, steps)
    return Trained(model, arm, fitted, round(task.calibrate(), 4))


def _task(model: Model, arm: Arm, held_out: Arm, settings: Settings) -> Task:
    """Return what the model's family trains on."""
    if isinstance(model, RelevanceModel):
        return CrossEncoderTask.of(model, arm.examples, held_out.examples, settings.training, arm.pairs, held_out.pairs)
    from serm.relevance.generative import GenerativeModel
    from serm.training.generative import GenerativeTask  # peft: not for those who train cross-encoders

    return GenerativeTask(cast(GenerativeModel, model), arm.examples, held_out.examples, settings)
