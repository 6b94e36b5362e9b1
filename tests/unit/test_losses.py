"""What training minimises: known answers, and that a batch in parts is the batch."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serm.relevance.ordinal import OrdinalHead
from serm.settings import TrainingSettings
from serm.training.batches import batches, parts
from serm.training.losses import (
    MU,
    Targets,
    cross_entropy,
    lambda_loss,
    lambda_queries,
    listnet,
    listnet_rows,
    objective,
)

pair = st.tuples(st.floats(-3, 3, width=32), st.integers(0, 3), st.floats(0.125, 1, width=32))
queries = st.lists(st.lists(pair, min_size=1, max_size=6), min_size=1, max_size=5)


def targets(grades: list[int], groups: list[int], weights: list[float] | None = None) -> Targets:
    return uncertain(torch.eye(4)[grades].tolist(), groups, weights)


def uncertain(distributions: list[list[float]], groups: list[int], weights: list[float] | None = None) -> Targets:
    weighted = torch.tensor(weights or [1.0] * len(groups))
    return Targets(torch.tensor(distributions), weighted, torch.tensor(groups))


def plain_objective(
    head: OrdinalHead, scores: torch.Tensor, grades: list[int], groups: list[int], weights: list[float]
) -> torch.Tensor:
    """Likelihood of hard grades and ListNet of hard gains, query by query, as it was before distributions were."""
    weight, group, grade = torch.tensor(weights), torch.tensor(groups), torch.tensor(grades)
    likelihood = head.log_likelihood(scores, grade)
    value, rows = -(weight * likelihood).sum() / weight.sum(), 0
    listwise = scores.new_zeros(())
    for query in set(groups):
        gains = (weight * (2.0**grade - 1))[group == query]
        if gains.sum() > 0:
            count = len(gains)
            listwise -= count * (gains / gains.sum()) @ torch.log_softmax(scores[group == query], 0)
            rows += count
    return value + listwise / max(rows, 1)


@given(queries)
@settings(max_examples=50)
def test_certain_grades_give_the_loss_of_grades(drawn: list[list[tuple[float, int, float]]]) -> None:
    groups = np.repeat(np.arange(len(drawn)), [len(query) for query in drawn]).tolist()
    scores, grades, weights = (list(column) for column in zip(*(row for query in drawn for row in query), strict=True))
    head, whole, found = OrdinalHead(), targets(grades, groups, weights), []
    for loss in (
        lambda s: objective(head, s, whole, whole, TrainingSettings()),
        lambda s: plain_objective(head, s, grades, groups, weights),
    ):
        values = torch.tensor(scores, requires_grad=True)
        value = loss(values)
        value.backward()
        assert values.grad is not None
        found.append([value.item(), *values.grad.tolist()])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_listnet_of_distributions_matches_expected_gains() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0])
    # Expected gains 0.5 (1) = 0.5, 0, and 0.5 (3 + 7) = 5, not that of the expected grade 2.5.
    doubtful = uncertain([[0.5, 0.5, 0, 0], [1.0, 0, 0, 0], [0, 0, 0.5, 0.5]], [0, 0, 0])
    expected = -torch.log_softmax(scores, 0) @ torch.tensor([0.5, 0.0, 5.0]) / 5.5
    assert listnet(scores, doubtful).item() == pytest.approx(3 * expected.item())


def test_lambda_loss_of_distributions_is_that_of_their_expected_gains() -> None:
    """Gains of 1 and 3, certain or as a mixture of 0 and 2, 0 and 3: the pull between two documents is the same."""
    scores = torch.tensor([0.5, 0.0])
    certain = lambda_loss(scores, targets([1, 2], [0, 0]))
    mixed = lambda_loss(scores, uncertain([[2 / 3, 0, 1 / 3, 0], [4 / 7, 0, 0, 3 / 7]], [0, 0]))
    assert mixed.item() == pytest.approx(certain.item(), rel=1e-5)


def test_listnet_is_the_cross_entropy_of_each_querys_gains() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 5.0])
    # Query 0: gains 1, 0, 3; query 1 has no gain and does not count.
    asked = targets([1, 0, 2, 0], [0, 0, 0, 1])
    expected = -torch.log_softmax(scores[:3], 0) @ torch.tensor([0.25, 0.0, 0.75])
    assert listnet_rows(asked).item() == 3
    assert listnet(scores, asked).item() == pytest.approx(3 * expected.item())
    # A lighter label pulls less: with weight 1/3 on the grade 2 both gains are 1.
    lighter = listnet(scores, targets([1, 0, 2, 0], [0, 0, 0, 1], [1, 1, 1 / 3, 1])) / 3
    expected = -torch.log_softmax(scores[:3], 0) @ torch.tensor([0.5, 0.0, 0.5])
    assert lighter.item() == pytest.approx(expected.item())
    assert listnet_rows(targets([0, 0], [0, 1])).item() == 0


def discount(rank: int) -> float:
    return math.log2(1 + rank)


@given(st.lists(pair, min_size=2, max_size=7, unique_by=lambda one: one[0]))
def test_lambda_loss_is_the_papers_sum_over_pairs(rows: list[tuple[float, int, float]]) -> None:
    scores, grades, weights = (list(column) for column in zip(*rows, strict=True))
    rank = [1 + sum(other > score for other in scores) for score in scores]
    best = sum((2**grade - 1) / discount(place + 1) for place, grade in enumerate(sorted(grades, reverse=True)))
    expected = 0.0
    for i, j in np.ndindex(len(rows), len(rows)):
        if grades[i] > grades[j]:
            apart = abs(rank[i] - rank[j])
            rho = abs(1 / discount(rank[i]) - 1 / discount(rank[j]))
            delta = abs(1 / discount(apart) - 1 / discount(apart + 1))
            gain = abs(2 ** grades[i] - 2 ** grades[j]) / best
            likelihood = math.log2(1 / (1 + math.exp(scores[j] - scores[i])))
            expected -= weights[i] * weights[j] * (rho + MU * delta) * gain * likelihood
    found = lambda_loss(torch.tensor(scores), targets(grades, [0] * len(rows), weights))
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert lambda_queries(targets(grades, [0] * len(rows))).item() == (len(set(grades)) > 1)


@pytest.mark.parametrize("listwise", ["listnet", "lambda"])
@given(drawn=queries, count=st.integers(1, 5))
@settings(max_examples=50)
def test_parts_of_a_batch_add_up_to_it(
    listwise: Literal["listnet", "lambda"], drawn: list[list[tuple[float, int, float]]], count: int
) -> None:
    options = TrainingSettings(listwise=listwise)
    groups = np.repeat(np.arange(len(drawn)), [len(query) for query in drawn])
    scores, grades, weights = (list(column) for column in zip(*(row for query in drawn for row in query), strict=True))
    whole = targets(grades, groups.tolist(), weights)
    cut = parts(np.arange(len(groups)), groups, count)
    assert 1 <= len(cut) <= min(count, len(drawn))
    assert np.concatenate(cut).tolist() == list(range(len(groups)))
    assert all(set(groups[a]).isdisjoint(groups[b]) for a in cut for b in cut if a is not b)

    def gradient(pieces: list[np.ndarray]) -> torch.Tensor:
        values = torch.tensor(scores, requires_grad=True)
        for rows in map(torch.from_numpy, pieces):
            objective(OrdinalHead(), values[rows], whole[rows], whole, options).backward()
        assert values.grad is not None
        return values.grad

    np.testing.assert_allclose(gradient([np.arange(len(groups))]), gradient(cut), atol=1e-5)


def test_cross_entropy_is_least_for_the_teachers_own_scores() -> None:
    head, own = OrdinalHead(), torch.tensor([-2.0, 0.3, 1.5])
    taught = head.distribution(own).detach().float()
    entropy = -(taught * taught.log()).sum(1)
    np.testing.assert_allclose(cross_entropy(head, own, taught).detach(), entropy, atol=1e-5)
    assert (cross_entropy(head, own + 0.5, taught) > entropy).all()
    certain = torch.nn.functional.one_hot(torch.tensor([0, 2, 3]), 4).float()
    likelihood = head.log_likelihood(own, torch.tensor([0, 2, 3]))
    np.testing.assert_allclose(cross_entropy(head, own, certain).detach(), -likelihood.detach(), atol=1e-6)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 3))
def test_an_epoch_has_each_row_once(sizes: list[int], batch: int, epochs: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    lengths = np.arange(len(groups)) % 17 + 2
    options = TrainingSettings(epochs=epochs)
    drawn = list(batches(lengths, groups, batch, options))
    assert sorted(np.concatenate(drawn).tolist()) == sorted(np.tile(np.arange(len(groups)), epochs).tolist())
    assert max(map(len, drawn)) <= batch
    assert [b.tolist() for b in batches(lengths, groups, batch, options)] == [b.tolist() for b in drawn]
    # Whole lists: only one that is longer than a batch is cut.
    for rows in drawn:
        assert all(sizes[group] > batch or (groups[rows] == group).sum() == sizes[group] for group in set(groups[rows]))
    # As many as another run took: the same ones, and then the rows again.
    longer = list(batches(lengths, groups, batch, options, steps=len(drawn) + 3))
    assert [b.tolist() for b in longer[: len(drawn)]] == [b.tolist() for b in drawn]
    assert len(longer) == len(drawn) + 3
