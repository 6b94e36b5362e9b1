"""Distillation: a smaller student learns the grade distributions of one or more teachers on unlabelled mined pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serm import engine as engines
from serm import relevance
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.relevance import RelevanceModel
from serm.settings import Settings
from serm.step import Figures, step
from serm.training.checkpoint import checkpoints_of
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.examples import Examples, read_known, read_mined
from serm.training.fit import fine_tune, reproducible
from serm.training.forgetting import remembered
from serm.training.held_out import HeldOut, chosen
from serm.training.processes import processes
from serm.training.tracking import write_provenance

WATCHED_SHARE = 0.1
"""Mined queries that the student does not learn from: how near it is to its teachers is measured on them."""


@step
def distill(
    teachers: Sequence[Path],
    champion: Path,
    mined: Path,
    judgments: Path,
    validated: Path,
    out: Path,
    settings: Settings,
) -> Figures:
    """Train a student of ``student_layers`` joint layers to give its teachers' grade distributions.

    The loss is KL(teachers' mean || student), as SERM's 0.5B student learns from its 7B teacher (arXiv 2601.09515).

    Args:
        teachers: directories that ``serm.relevance.load`` reads: a larger model, or the models of several cycles, whose
            distributions are averaged.
        champion: the cross-encoder whose encoder and uppermost layers the student starts from.
        mined: the mine step's output; ``mined/pairs`` need no labels. Pairs of held-out queries are not learned from.
        judgments: a JUDGMENTS dataset; the temperature is fitted on half of its held-out seed queries, and what is
            remembered is measured on the other half.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes ``model/``, which ``serm evaluate`` and the server take as a challenger's, and ``distill.json``.
        settings: uses the sections ``training`` and ``engine``.

    Raises:
        UserError: a model or dataset is missing, there is nothing to learn from, or the student would not be smaller
            than the champion.
    """
    # A student is not stopped early: its aim is its teachers, and no grade. Mined pairs are no lists.
    aim = {"epochs": settings.training.distillation_epochs, "patience": 0, "listwise_weight": 0, "champion_share": 0}
    options = settings.training.model_copy(update=aim)
    settings = settings.model_copy(update={"training": options})
    start = relevance.load(champion)
    if not isinstance(start, RelevanceModel):
        raise UserError(f"{champion}: a generative model; a student starts from a cross-encoder, give one as champion.")
    if options.student_layers >= len(start.residual.layers):
        raise UserError(
            f"training.student_layers is {options.student_layers}, and {champion} has {len(start.residual.layers)}"
            " joint layers; give the student fewer."
        )
    with engines.connect(settings.engine) as engine:
        pairs, retired = read_mined(engine, mined / "pairs", validated / "documents")
        known = read_known(engine, judgments, validated / "documents", options)
    held_out = HeldOut.of(known, options.held_out_share)
    pairs = held_out.without(pairs)
    unseen = chosen(pairs.asked(), WATCHED_SHARE, "watched ")  # not those that are held out
    if not (~unseen).any():
        raise UserError(f"{mined}: no mined pairs to learn from; run the mine step before, or raise mining.budget.")
    loaded = [relevance.load(teacher) for teacher in teachers]
    taught = np.mean([teacher.score(*pairs.texts()).distribution for teacher in loaded], axis=0)
    versions = [teacher.version for teacher in loaded]
    checkpoints = checkpoints_of(out, settings, [start.version, *versions, pairs])
    with reproducible(options):
        student = _student(start, options.student_layers)
        before = _divergence(taught[unseen], student, pairs[unseen])
        seen = replace(pairs, distributions=taught)[~unseen]
        task = CrossEncoderTask.of(student, seen, held_out.calibrating, options)
        fitted = fine_tune(task, options, checkpoints)
        after = _divergence(taught[unseen], student, pairs[unseen])
        temperature = task.calibrate()
        memory = remembered(start, student, held_out.remembering)
    if processes().is_main_process:
        with replace_directory(out) as directory:
            student.save(directory / "model")
            inputs = {"champion": champion, "mined": mined / "pairs", "judgments": judgments}
            taught_by = {f"teacher {number + 1}": teacher for number, teacher in enumerate(teachers)}
            write_provenance(directory / "model", settings, inputs | taught_by)
            summary = {
                "teachers": versions,
                "champion": start.version,
                "challenger": student.version,
                "joint_layers": {"champion": len(start.residual.layers), "student": options.student_layers},
                "pairs": {"learned": len(seen), "watched": int(unseen.sum()), "retired": retired + known.retired},
                "divergence": {"before": before, "after": after},
                "loss": fitted.curve,
                "temperature": round(temperature, 4),
                "held_out_seed": memory,
            }
            write_json(directory / "distill.json", summary)
        checkpoints.remove()
    return {
        "pairs": len(seen),
        "pairs_per_second": round(fitted.pairs_per_second, 1),
        "divergence_before": before,
        "divergence": after,
        "temperature": round(temperature, 4),
    }


def _student(start: RelevanceModel, layers: int) -> RelevanceModel:
    """Return ``start`` with only its uppermost joint layers; the layers below read query and document apart."""
    residual = copy.deepcopy(start.residual)
    residual.layers = residual.layers[-layers:]
    residual.ordinal.temperature.fill_(1.0)
    return RelevanceModel(start.encoder, residual)


def _divergence(taught: NDArray[np.float64], student: RelevanceModel, pairs: Examples) -> float:
    """Return the mean KL(teachers || student) over ``pairs``, in nats; 0 where there are none."""
    if not len(pairs):
        return 0.0
    given = student.score(*pairs.texts()).distribution
    ratio = np.log(np.clip(taught, 1e-12, 1)) - np.log(np.clip(given, 1e-12, 1))
    return round(float((taught * ratio).sum(1).mean()), 5)
