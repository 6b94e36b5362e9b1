"""Ordinal grades from one score: the proportional odds model (McCullagh 1980, J. R. Stat. Soc. B 42(2), 109-142).

``Pr(y >= k) = sigmoid(s - theta_k)`` for k = 1, 2, 3 with ``theta_1 < theta_2 < theta_3``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from serm.contracts import Grade

GRADES = torch.arange(len(Grade), dtype=torch.float64)


class OrdinalHead(nn.Module):
    """The thresholds: the first one and the logarithms of the gaps, so that they stay in order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.log_gaps = nn.Parameter(torch.zeros(len(Grade) - 2))

    def thresholds(self) -> torch.Tensor:
        """Return theta [3], rising."""
        return torch.cat([self.first[None], self.first + self.log_gaps.exp().cumsum(0)])

    def distribution(self, scores: torch.Tensor) -> torch.Tensor:
        """Return Pr(y) [n, 4] for scores [n]; in float64, each row sums to 1."""
        reached = torch.sigmoid(scores.double()[:, None] - self.thresholds().double())
        one, zero = torch.ones_like(reached[:, :1]), torch.zeros_like(reached[:, :1])
        return torch.cat([one, reached], 1) - torch.cat([reached, zero], 1)

    def log_likelihood(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Return log Pr(y = grade) [n] for scores [n] and integer grades [n], without cancellation.

        ``sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``, with a and b the distances to
        the thresholds below and above the grade.
        """
        distance = scores[:, None] - self.thresholds()
        below = functional.pad(functional.logsigmoid(distance), (1, 0))
        above = functional.pad(functional.logsigmoid(-distance), (0, 1))
        between = functional.pad(torch.log(-torch.expm1(-self.log_gaps.exp())), (1, 1))
        return (below + above + between)[torch.arange(len(grades)), grades]


def expected_grade(distribution: torch.Tensor) -> torch.Tensor:
    """Return f = sum of y Pr(y) [n], in 0..3, for distributions [n, 4]."""
    return distribution @ GRADES
