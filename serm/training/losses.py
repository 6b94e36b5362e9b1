"""What training minimises.

Each loss is a sum over queries, to be divided by a number that the whole batch fixes (``objective``). So a batch may go
through the model in parts, whole queries each, and their gradients add up to the batch's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from serm.contracts import Grade
from serm.relevance.ordinal import OrdinalHead
from serm.settings import TrainingSettings

MU = 10.0
"""Of ``lambda_loss``: the weight of the bound's second term."""


@dataclass(frozen=True)
class Targets:
    """What ``n`` pairs are to be scored as."""

    distributions: torch.Tensor
    """[n, 4] fp32, Pr(grade): one-hot where the grade is certain."""
    weights: torch.Tensor
    """[n] fp32, at least 0."""
    groups: torch.Tensor
    """[n] int64, the number of each pair's query."""

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: torch.Tensor) -> Targets:
        return Targets(self.distributions[rows], self.weights[rows], self.groups[rows])

    def to(self, device: torch.device) -> Targets:
        """Return the targets on ``device``."""
        parts = (self.distributions, self.weights, self.groups)
        return Targets(*(part.to(device) for part in parts))

    @property
    def gains(self) -> torch.Tensor:
        """The expected gain of each pair, ``sum over g of Pr(g) (2^g - 1)`` [n] fp32: ``2^grade - 1`` if certain.

        DCG is linear in gains: a ranking's expected DCG is its DCG with these.
        """
        gains = self.distributions.new_tensor([2.0**grade - 1 for grade in Grade])
        return (self.distributions * gains).sum(1)


def objective(
    ordinal: OrdinalHead, scores: torch.Tensor, part: Targets, whole: Targets, settings: TrainingSettings
) -> torch.Tensor:
    """Return what ``part`` of a batch adds to the batch's loss, a scalar.

    It is the weighted mean of the distributions' cross-entropy (the negative log-likelihood of a certain grade; of a
    teacher's or panel's distribution p, up to p's own entropy, KL(p || model)) plus ``listwise_weight`` times the
    listwise loss' mean.

    Args:
        ordinal: gives the grades' likelihood.
        scores: of the part's pairs.
        part: whole queries of the batch.
        whole: the batch, whose sums the means are over.
        settings: ``listwise`` and ``listwise_weight`` are read.
    """
    loss = (part.weights * cross_entropy(ordinal, scores, part.distributions)).sum() / whole.weights.sum()
    if settings.listwise_weight:
        listwise, count = (listnet, listnet_rows) if settings.listwise == "listnet" else (lambda_loss, lambda_queries)
        loss = loss + settings.listwise_weight * listwise(scores, part) / count(whole).clamp(min=1)
    return loss


def cross_entropy(ordinal: OrdinalHead, scores: torch.Tensor, distributions: torch.Tensor) -> torch.Tensor:
    """Return ``- sum over y of p(y) log q(y)`` [n] of the targets' p [n, 4] and the scores' q."""
    return -(distributions * ordinal.log_distribution(scores)).sum(1)


def listnet(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return ListNet's top-one loss (Cao et al. 2007, ICML, section 4.3), summed over the rows of queries with gain.

    In each query the softmax over its documents in the batch is to match their expected gains, times their weights.
    """
    same = targets.groups[:, None] == targets.groups
    gains = same * (targets.weights * targets.gains)
    logarithms = functional.log_softmax(scores.expand(len(scores), -1).masked_fill(~same, -1e9), 1)
    return (-(gains * logarithms).sum(1) / gains.sum(1).clamp(min=1e-6)).sum()


def listnet_rows(targets: Targets) -> torch.Tensor:
    """Count the rows of queries that have gain: what ``listnet`` is a mean over."""
    query = torch.unique(targets.groups, return_inverse=True)[1]
    gains = targets.weights * targets.gains
    return (gains.new_zeros(len(gains)).index_add(0, query, gains)[query] > 0).sum()


def lambda_loss(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return LambdaLoss with NDCG-Loss2++ (Wang et al. 2018, CIKM, doi 10.1145/3269206.3271784), summed over queries.

    For a query whose documents stand at ranks ``p`` (from 1) by their scores now, with gains
    ``G = gain / max DCG`` and discounts ``D(p) = log2(1 + p)``:

        - sum over gain_i > gain_j of w_i w_j (rho + MU delta) |G_i - G_j| log2 sigmoid(s_i - s_j)
        rho = |1 / D(p_i) - 1 / D(p_j)|,  delta = |1 / D(|p_i - p_j|) - 1 / D(|p_i - p_j| + 1)|

    ``rho`` alone is LambdaRank's weighting; the sample weights ``w`` are SERM's, and so are expected gains where grades
    are uncertain: the loss bounds a cost that is linear in gains, and two documents of nearly one gain hardly pull.
    """
    same = targets.groups[:, None] == targets.groups
    rank = _ranks(scores.detach(), same)
    gains = targets.gains / _best_dcg(targets, same).clamp(min=1e-6)
    better = same & (gains[:, None] > gains)
    inverse = 1 / torch.log2(1 + rank)
    apart = (rank[:, None] - rank).abs().clamp(min=1)
    rho = (inverse[:, None] - inverse).abs()
    delta = (1 / torch.log2(1 + apart) - 1 / torch.log2(2 + apart)).abs()
    pull = (rho + MU * delta) * (gains[:, None] - gains).abs() * targets.weights[:, None] * targets.weights
    likelihood = functional.logsigmoid(scores[:, None] - scores) / torch.log(scores.new_tensor(2.0))
    return -(pull * likelihood)[better].sum()


def lambda_queries(targets: Targets) -> torch.Tensor:
    """Count the queries with two different gains: what ``lambda_loss`` is a mean over."""
    query = torch.unique(targets.groups, return_inverse=True)[1]
    highest, lowest = (
        targets.gains.new_zeros(len(query)).scatter_reduce(0, query, targets.gains, how, include_self=False)
        for how in ("amax", "amin")
    )
    return (highest > lowest).sum()


def _ranks(values: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Return each row's rank from 1 among the rows of its query, highest first, ties in the rows' order [n]."""
    before = torch.ones_like(same).tril(-1)
    ahead = (values > values[:, None]) | ((values == values[:, None]) & before)
    return 1 + (ahead & same).sum(1)


def _best_dcg(targets: Targets, same: torch.Tensor) -> torch.Tensor:
    """Return the DCG of the best order of each row's query [n]."""
    ideal = targets.gains / torch.log2(1 + _ranks(targets.gains, same))
    return (same * ideal).sum(1)
