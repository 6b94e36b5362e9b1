"""Ordinal grades from one score: the proportional odds model (McCullagh 1980, J. R. Stat. Soc. B 42(2), 109-142).

``Pr(y >= k) = sigmoid((s - theta_k) / T)`` for k = 1, 2, 3 with ``theta_1 < theta_2 < theta_3`` and temperature T > 0.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from serm.contracts import Grade

GRADES = torch.arange(len(Grade), dtype=torch.float64)


class OrdinalHead(nn.Module):
    """The thresholds: the first one and the logarithms of the gaps, so that they stay in order; and a temperature.

    The temperature is 1 while the model trains and is fitted afterwards, on pairs held out (``calibrate``): fine-tuned
    networks are too sure of themselves (Guo et al., "On calibration of modern neural networks", ICML 2017).
    """

    temperature: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.log_gaps = nn.Parameter(torch.zeros(len(Grade) - 2))

    def thresholds(self) -> torch.Tensor:
        """Return theta [3], rising."""
        return torch.cat([self.first[None], self.first + self.log_gaps.exp().cumsum(0)])

    def distribution(self, scores: torch.Tensor) -> torch.Tensor:
        """Return Pr(y) [n, 4] for scores [n]; in float64, each row sums to 1."""
        reached = torch.sigmoid((scores.double()[:, None] - self.thresholds().double()) / self.temperature.double())
        one, zero = torch.ones_like(reached[:, :1]), torch.zeros_like(reached[:, :1])
        return torch.cat([one, reached], 1) - torch.cat([reached, zero], 1)

    def log_likelihood(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Return log Pr(y = grade) [n] for scores [n] and integer grades [n], without cancellation."""
        return self.log_distribution(scores)[torch.arange(len(grades)), grades]

    def log_distribution(self, scores: torch.Tensor) -> torch.Tensor:
        """Return log Pr(y) [n, 4] for scores [n], without cancellation."""
        return _log_distribution(scores, self.thresholds(), self.log_gaps, self.temperature)

    def calibrate(self, scores: torch.Tensor, grades: torch.Tensor) -> float:
        """Set the temperature to the likeliest one for scores [n] and grades [n]; return it, within 1/20 to 20.

        With no pairs it is 1. Scores keep their order, whatever the temperature.
        """
        self.temperature.fill_(1.0)
        if len(grades):
            logarithm = torch.zeros((), requires_grad=True)
            optimizer = torch.optim.LBFGS([logarithm], max_iter=50, line_search_fn="strong_wolfe")
            scores, thresholds, gaps = scores.detach(), self.thresholds().detach(), self.log_gaps.detach()

            def loss() -> float:
                optimizer.zero_grad()
                logarithms = _log_distribution(scores, thresholds, gaps, logarithm.exp())
                value = -logarithms[torch.arange(len(grades)), grades].mean()
                value.backward()  # type: ignore[no-untyped-call]
                return value.item()

            optimizer.step(loss)  # type: ignore[no-untyped-call]
            self.temperature.copy_(logarithm.detach().exp().clamp(0.05, 20))
        return float(self.temperature)


def expected_grade(distribution: torch.Tensor) -> torch.Tensor:
    """Return f = sum of y Pr(y) [n], in 0..3, for distributions [n, 4]."""
    return distribution @ GRADES


def _log_distribution(
    scores: torch.Tensor, thresholds: torch.Tensor, log_gaps: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """``sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``, with a and b the distances to the
    thresholds below and above the grade.
    """
    distance = (scores[:, None] - thresholds) / temperature
    below = functional.pad(functional.logsigmoid(distance), (1, 0))
    above = functional.pad(functional.logsigmoid(-distance), (0, 1))
    between = functional.pad(torch.log(-torch.expm1(-log_gaps.exp() / temperature)), (1, 1))
    return below + above + between
