"""Training a cross-encoder: its residual, on pairs whose frozen part is computed once."""

from __future__ import annotations

from typing import Any

import torch

from serm.relevance import RelevanceModel
from serm.relevance.device import fast_matmul
from serm.relevance.model import EncodedPairs
from serm.settings import TrainingSettings
from serm.training.batches import Rows
from serm.training.examples import Examples
from serm.training.losses import Targets, cross_entropy, objective


class CrossEncoderTask:
    """A cross-encoder's ``serm.training.task.Task``; the loss is ``losses.objective``, its groups are the queries."""

    def __init__(
        self,
        model: RelevanceModel,
        pairs: EncodedPairs,
        targets: Targets,
        settings: TrainingSettings,
        held_out: tuple[EncodedPairs, torch.Tensor] | None = None,
    ) -> None:
        """Take a model, whose temperature becomes 1, what it learns from and what it learns, and held-out pairs with
        their grades [n].
        """
        self.module = model.residual
        self.module.ordinal.temperature.fill_(1.0)
        self.module.gradient_checkpointing = settings.gradient_checkpointing
        self.lengths = pairs.lengths
        self.groups = targets.groups.numpy()
        self.batch_pairs = settings.batch_pairs
        self._model, self._pairs, self._targets, self._settings = model, pairs, targets, settings
        self._held_out = held_out

    @classmethod
    def of(
        cls,
        model: RelevanceModel,
        examples: Examples,
        held_out: Examples,
        settings: TrainingSettings,
        pairs: EncodedPairs | None = None,
        held_pairs: EncodedPairs | None = None,
    ) -> CrossEncoderTask:
        """Take judged examples; the frozen parts are computed here where they are not given."""
        pairs = pairs or model.pairs(*examples.texts())
        held_pairs = held_pairs or model.pairs(*held_out.texts())
        return cls(model, pairs, targets_of(examples), settings, (held_pairs, torch.from_numpy(held_out.grades)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The pretrained layers learn slowly, what starts from nothing (head, alpha, thresholds) faster."""
        settings = self._settings
        fresh = [p for name, p in self.module.named_parameters() if not name.startswith("layers.")]
        pretrained = [p for name, p in self.module.named_parameters() if name.startswith("layers.")]
        return [
            {"params": pretrained, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": fresh, "lr": settings.head_learning_rate, "weight_decay": 0.0},
        ]

    def loss(self, rows: Rows, batch: Rows) -> torch.Tensor:
        """Return the share of ``rows`` in the batch's objective.

        Without dropout: what is learned is the same (docs/does-it-evolve.md), in less time.
        """
        device = self.module.alpha.device
        with fast_matmul(self._settings.precision == "bf16", device):
            scores = self.module(*self._pairs.batch(rows, device))
        part, whole = (self._targets[torch.from_numpy(one)].to(device) for one in (rows, batch))
        return objective(self.module.ordinal, scores, part, whole, self._settings)

    def held_out_loss(self) -> float:
        """Return the mean negative log-likelihood of the held-out grades."""
        pairs, grades = self._held()
        device = self.module.alpha.device
        scores = self._model.forward(pairs)
        with torch.inference_mode():
            likelihood = self.module.ordinal.log_likelihood(scores.to(device), grades.to(device))
        return float(-likelihood.mean())

    def calibrate(self) -> float:
        """Fit the temperature to the held-out pairs."""
        pairs, grades = self._held()
        return self.module.ordinal.calibrate(self._model.forward(pairs).clone(), grades)

    def fit_cosine(self) -> None:
        """Fit alpha and the thresholds, four numbers, to the cosines alone: where a fresh model starts."""
        residual, cosines, targets = self.module, self._pairs.cosines, self._targets
        scale = 1 / float(cosines.std().clamp(min=1e-3))
        residual.alpha.data.fill_(scale)
        residual.ordinal.first.data.fill_(scale * float(cosines.mean()) - 1)
        parameters = [residual.alpha, *residual.ordinal.parameters()]
        optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            each = cross_entropy(residual.ordinal, residual.alpha * cosines, targets.distributions)
            value = (targets.weights * each).sum() / targets.weights.sum()
            # A grade that no pair has would shrink its gap without end; this holds it, and moves no other by much.
            value = value + 1e-4 * residual.ordinal.log_gaps.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimizer.step(loss)  # type: ignore[no-untyped-call]

    def _held(self) -> tuple[EncodedPairs, torch.Tensor]:
        assert self._held_out is not None, "no held-out pairs were given"
        return self._held_out


def targets_of(examples: Examples) -> Targets:
    """Return what ``examples`` are to be scored as."""
    return Targets(
        distributions=torch.from_numpy(examples.distributions).float(),
        weights=torch.from_numpy(examples.weights).float(),
        groups=torch.from_numpy(examples.groups()),
    )
