"""The training loop: reproducible on the CPU, bit for bit, on the same machine with the same number of threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional

from serm.relevance import RelevanceModel
from serm.relevance.encoder import fast_matmul
from serm.relevance.model import Pairs
from serm.settings import TrainingSettings

REPORT_STEPS = 50
"""Steps whose mean loss makes one number of the curve."""


@contextmanager
def reproducible(settings: TrainingSettings) -> Iterator[None]:
    """Fix the seed, the threads and the algorithms of torch inside the block."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


@dataclass(frozen=True)
class Targets:
    """What ``n`` pairs are to be scored as."""

    grades: torch.Tensor
    """[n] int64, 0 to 3."""
    weights: torch.Tensor
    """[n] fp32, 0 to 1."""
    groups: torch.Tensor
    """[n] int64, the number of each pair's query."""


def fit_cosine(model: RelevanceModel, pairs: Pairs, targets: Targets) -> None:
    """Fit alpha and the thresholds, four numbers, to the cosines alone."""
    residual = model.residual
    scale = 1 / float(pairs.cosines.std().clamp(min=1e-3))
    residual.alpha.data.fill_(scale)
    residual.ordinal.first.data.fill_(scale * float(pairs.cosines.mean()) - 1)
    parameters = [residual.alpha, *residual.ordinal.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        likelihood = residual.ordinal.log_likelihood(residual.alpha * pairs.cosines, targets.grades)
        value = -(targets.weights * likelihood).sum() / targets.weights.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimizer.step(loss)  # type: ignore[no-untyped-call]


def fine_tune(model: RelevanceModel, pairs: Pairs, targets: Targets, settings: TrainingSettings) -> list[float]:
    """Train the residual on ``n`` pairs and return the curve: the mean loss of each ``REPORT_STEPS`` steps.

    The loss is the weighted negative log-likelihood of the grades plus ``listwise_weight`` times ``listwise_loss``.
    AdamW, linear warm-up, linear decay to zero, gradients clipped to norm 1.
    """
    residual = model.residual
    batches = list(_batches(pairs.lengths, targets.groups.numpy(), settings))
    optimizer = _optimizer(residual, settings)
    warm = max(1, round(settings.warmup_share * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warm, (len(batches) - done) / max(1, len(batches) - warm))
    )
    losses: list[float] = []
    residual.train()
    for batch in _progress(batches, losses):
        grades, weights, groups = targets.grades[batch], targets.weights[batch], targets.groups[batch]
        with fast_matmul(settings.precision == "bf16"):
            scores = residual(*pairs.batch(batch))
        loss = -(weights * residual.ordinal.log_likelihood(scores, grades)).sum() / weights.sum()
        if settings.listwise_weight:
            loss = loss + settings.listwise_weight * listwise_loss(scores, grades, weights, groups)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(residual.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    residual.eval()
    return [round(float(np.mean(part)), 5) for part in _bins(losses)]


def listwise_loss(
    scores: torch.Tensor, grades: torch.Tensor, weights: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """Return ListNet's top-one loss (Cao et al. 2007, ICML, section 4.3), a mean over the rows of queries with gain.

    In each query the softmax over its documents in the batch is to match their gains ``weight (2^grade - 1)``.
    """
    same = groups[:, None] == groups[None, :]
    gains = same * (weights * (2.0**grades - 1))
    total = gains.sum(1, keepdim=True)
    logarithms = functional.log_softmax(scores.expand(len(scores), -1).masked_fill(~same, -1e9), 1)
    losses = -(gains * logarithms).sum(1) / total.squeeze(1).clamp(min=1e-6)
    return losses.sum() / (total > 0).sum().clamp(min=1)


def _batches(
    lengths: NDArray[np.int64], groups: NDArray[np.int64], settings: TrainingSettings
) -> Iterator[NDArray[np.int64]]:
    """Yield batches of rows for all epochs.

    Queries are sorted by their longest pair (nearly equal ones at random), their rows cut into batches, and the batches
    shuffled. So a batch holds whole queries, but for those at its edges.
    """
    generator = np.random.default_rng(settings.seed)
    longest = np.zeros(groups.max() + 1)
    np.maximum.at(longest, groups, lengths)
    for _ in range(settings.epochs):
        place = np.argsort(np.argsort(longest + 3 * generator.random(len(longest)), kind="stable"), kind="stable")
        order = np.argsort(place[groups], kind="stable")
        batches = np.split(order, range(settings.batch_pairs, len(order), settings.batch_pairs))
        for number in generator.permutation(len(batches)):
            yield batches[number]


def _optimizer(residual: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """The pretrained layers learn slowly; what starts from nothing (head, alpha, thresholds) ``head_learning_rate``."""
    fresh = [p for name, p in residual.named_parameters() if not name.startswith("layers.")]
    pretrained = [p for name, p in residual.named_parameters() if name.startswith("layers.")]
    return torch.optim.AdamW(
        [
            {"params": pretrained, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": fresh, "lr": settings.head_learning_rate, "weight_decay": 0.0},
        ]
    )


def _progress(batches: list[NDArray[np.int64]], losses: list[float]) -> Iterator[NDArray[np.int64]]:
    """Yield the batches behind a progress bar, or with a plain line now and then when there is no terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(batches, "train", console=console, transient=True)
        return
    for number, batch in enumerate(batches):
        yield batch
        if (number + 1) % REPORT_STEPS == 0 or number + 1 == len(batches):
            recent = np.mean(losses[-REPORT_STEPS:])
            console.print(f"train: step {number + 1} of {len(batches)}, loss {recent:.3f}", highlight=False)


def _bins(losses: list[float]) -> list[NDArray[np.float64]]:
    return np.array_split(np.array(losses), math.ceil(len(losses) / REPORT_STEPS))
