"""Training a generative model: its adapters, on judgments, with their rationales where they have some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from serm.relevance.device import fast_matmul
from serm.relevance.generative import GRADE, RATIONALE, GenerativeModel
from serm.settings import Settings
from serm.training.batches import Rows
from serm.training.examples import Examples


@dataclass(frozen=True)
class Lesson:
    """A judged pair as tokens."""

    ids: list[int]
    """The prompt and the answer."""
    grade_at: int
    """Where in ``ids`` the grade stands; the answer has the likeliest one."""
    distribution: list[float]
    """[4] what is learned there: Pr(grade)."""
    rationale: tuple[int, int]
    """Where the rationale's tokens begin and end; an empty range where there is none."""


class GenerativeTask:
    """A generative model's ``serm.training.task.Task``.

    The loss of a pair is its weight times the sum of the cross-entropy of its distribution among the four grades, and
    the rationale's mean negative log-likelihood a token in the whole vocabulary. It needs no other pair, so each is a
    group of its own.
    """

    def __init__(self, model: GenerativeModel, examples: Examples, held_out: Examples, settings: Settings) -> None:
        """Take a model, whose temperature becomes 1, what it learns, and held-out pairs."""
        self.module = model.lm
        if settings.training.gradient_checkpointing:
            model.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.config["temperature"] = 1.0
        self._model, self._held_out, self._settings = model, held_out, settings
        self._lessons = lessons(model, examples)
        self._weights = torch.from_numpy(examples.weights).float()
        self.lengths = np.array([len(one.ids) for one in self._lessons], np.int64)
        self.groups = np.arange(len(examples))
        self.batch_pairs = settings.relevance.generative.batch_pairs

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The adapters."""
        adapters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return [{"params": adapters, "lr": self._settings.relevance.generative.learning_rate, "weight_decay": 0.0}]

    def loss(self, rows: Rows, batch: Rows) -> torch.Tensor:
        """Return the share of ``rows`` in the batch's weighted mean, with LoRA's dropout."""
        self.module.train()
        with fast_matmul(self._settings.training.precision == "bf16", self.module.device):
            each = losses(self._model, [self._lessons[row] for row in rows])
        weights = self._weights.to(each.device)
        return (weights[rows] * each).sum() / weights[batch].sum().clamp(min=1e-6)

    def held_out_loss(self) -> float:
        """Return the mean negative log-likelihood of the held-out grades, behind the model's own rationales."""
        logits = self._model.grade_logits(*self._held_out.texts())
        return float(functional.cross_entropy(logits.double(), torch.from_numpy(self._held_out.grades)))

    def calibrate(self) -> float:
        """Fit the temperature to the held-out pairs."""
        return self._model.calibrate(*self._held_out.texts(), self._held_out.grades)


def lessons(model: GenerativeModel, examples: Examples) -> list[Lesson]:
    """Return the examples as tokens."""
    prompts = model.prompts(*examples.texts())
    answers = model.answers(examples.grades.tolist(), examples.rationales.tolist())
    given = zip(prompts, answers, examples.distributions.tolist(), strict=True)
    return [_lesson(model, prompt, answer, distribution) for prompt, answer, distribution in given]


def _lesson(model: GenerativeModel, prompt: str, answer: str, distribution: list[float]) -> Lesson:
    def tokens(text: str) -> list[int]:
        ids: list[int] = model.tokenizer(text).input_ids
        return ids

    before_grade = prompt + answer[: answer.index(GRADE)] + model.stem
    rationale = (0, 0)
    if RATIONALE in answer:
        start = answer.index(RATIONALE)
        end = answer.index("\n", start) + 1
        rationale = (len(tokens(prompt + answer[:start] + RATIONALE)), len(tokens(prompt + answer[:end])))
    return Lesson(tokens(prompt + answer), len(tokens(before_grade)), distribution, rationale)


def losses(model: GenerativeModel, given: Sequence[Lesson]) -> torch.Tensor:
    """Return the loss of each lesson [n], weights left out."""
    inputs = model.padded([one.ids for one in given])
    longest = inputs["input_ids"].shape[1]
    # Of the logits only those behind the prompts are computed; place p of the whole is place p - first of them.
    keep = max(len(one.ids) - min(one.grade_at, one.rationale[0] or one.grade_at) for one in given) + 1
    first = longest - keep
    logits = model.lm(**inputs, logits_to_keep=keep).logits.float()
    found = []
    for row, one in enumerate(given):
        shift = longest - len(one.ids) - first - 1  # a token is predicted one place before it stands
        wanted = logits.new_tensor(one.distribution)
        value = functional.cross_entropy(logits[row, one.grade_at + shift, model.grade_tokens], wanted)
        start, end = one.rationale
        if end > start:
            said = logits.new_tensor(one.ids[start:end], dtype=torch.long)
            value = value + functional.cross_entropy(logits[row, start + shift : end + shift], said)
        found.append(value)
    return torch.stack(found)
