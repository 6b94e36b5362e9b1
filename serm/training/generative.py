"""Supervised fine-tuning of a generative model's adapters on judgments, with their rationales where they have some."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from serm.errors import UserError
from serm.relevance.encoder import fast_matmul
from serm.relevance.generative import GRADE, RATIONALE, GenerativeModel
from serm.settings import Settings
from serm.step import Figures
from serm.training.examples import Examples
from serm.training.fit import Fitted

REPORT_STEPS = 10
"""Steps whose mean loss makes one number of the curve."""


@dataclass(frozen=True)
class Lesson:
    """A judged pair as tokens."""

    ids: list[int]
    """The prompt and the answer."""
    grade_at: int
    """Where in ``ids`` the grade stands."""
    rationale: tuple[int, int]
    """Where the rationale's tokens begin and end; an empty range where there is none."""


def fit(model: GenerativeModel, examples: Examples, held_out: Examples, settings: Settings) -> tuple[Fitted, Figures]:
    """Fine-tune the adapters and fit the temperature; return what was done and figures, as a cross-encoder's have it.

    The loss of a pair is its weight times the sum of the grade's negative log-likelihood among the four grades, and the
    mean one of the rationale's tokens in the whole vocabulary. AdamW, linear warm-up and decay, gradients clipped to
    norm 1. With the same seed and threads the same adapters come out, bit for bit.

    Raises:
        UserError: there are no examples.
    """
    if not len(examples):
        raise UserError("no judgments to train on; add seed judgments to state/judgments.")
    options = settings.training
    model.config["temperature"] = 1.0
    given = lessons(model, examples)
    weights = torch.from_numpy(examples.weights).float()
    batches = list(_batches(len(given), settings))
    parameters = [parameter for parameter in model.lm.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.relevance.generative.learning_rate, weight_decay=0.0)
    warm = max(1, round(options.warmup_share * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warm, (len(batches) - done) / max(1, len(batches) - warm))
    )
    losses = []
    start = time.perf_counter()
    model.lm.train()
    for batch in batches:
        with fast_matmul(options.precision == "bf16"):
            each = loss(model, [given[row] for row in batch])
        value = (weights[batch] * each).sum() / weights[batch].sum().clamp(min=1e-6)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(value.item())
    model.lm.eval()
    rate = len(examples) * options.epochs / (time.perf_counter() - start)
    temperature = model.calibrate(*held_out.texts(), held_out.grades)
    parts = np.array_split(np.array(losses), -(-len(losses) // REPORT_STEPS))
    curve = [round(float(part.mean()), 5) for part in parts]
    figures: Figures = {
        "pairs": len(examples),
        "pairs_per_second": round(rate, 1),
        "loss": round(curve[-1], 4),
        "temperature": round(temperature, 4),
    }
    return Fitted(curve, len(losses), len(losses), [], 1, rate), figures


def lessons(model: GenerativeModel, examples: Examples) -> list[Lesson]:
    """Return the examples as tokens."""
    prompts = model.prompts(*examples.texts())
    answers = model.answers(examples.grades.tolist(), examples.rationales.tolist())
    return [_lesson(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _lesson(model: GenerativeModel, prompt: str, answer: str) -> Lesson:
    def tokens(text: str) -> list[int]:
        ids: list[int] = model.tokenizer(text).input_ids
        return ids

    before_grade = prompt + answer[: answer.index(GRADE)] + model.stem
    rationale = (0, 0)
    if RATIONALE in answer:
        start = answer.index(RATIONALE)
        end = answer.index("\n", start) + 1
        rationale = (len(tokens(prompt + answer[:start] + RATIONALE)), len(tokens(prompt + answer[:end])))
    return Lesson(tokens(prompt + answer), len(tokens(before_grade)), rationale)


def loss(model: GenerativeModel, given: Sequence[Lesson]) -> torch.Tensor:
    """Return the loss of each lesson [n], weights left out."""
    inputs = model.padded([one.ids for one in given])
    longest = inputs["input_ids"].shape[1]
    # Of the logits only those behind the prompts are computed; place p of the whole is place p - first of them.
    keep = max(len(one.ids) - min(one.grade_at, one.rationale[0] or one.grade_at) for one in given) + 1
    first = longest - keep
    logits = model.lm(**inputs, logits_to_keep=keep).logits.float()
    losses = []
    for row, one in enumerate(given):
        shift = longest - len(one.ids) - first - 1  # a token is predicted one place before it stands
        grade = one.ids[one.grade_at]
        wanted = torch.tensor(model.grade_tokens.index(grade))
        value = functional.cross_entropy(logits[row, one.grade_at + shift, model.grade_tokens], wanted)
        start, end = one.rationale
        if end > start:
            said = torch.tensor(one.ids[start:end])
            value = value + functional.cross_entropy(logits[row, start + shift : end + shift], said)
        losses.append(value)
    return torch.stack(losses)


def _batches(pairs: int, settings: Settings) -> list[np.ndarray]:
    """Return batches of rows for all epochs, in a seeded random order."""
    generator = np.random.default_rng(settings.training.seed)
    size = settings.relevance.generative.batch_pairs
    return [
        batch
        for _ in range(settings.training.epochs)
        for batch in np.split(generator.permutation(pairs), range(size, pairs, size))
    ]
