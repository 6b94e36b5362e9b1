"""Ordinal grades, documents as text, and batches by length: known answers and properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
import torch
from hypothesis import given
from hypothesis import strategies as st

from serm.errors import UserError
from serm.relevance import RelevanceModel, document_text, load
from serm.relevance.bases import load_encoder
from serm.relevance.batches import longest_batches
from serm.relevance.encoder import mean_pool, spans
from serm.relevance.encodings import Encoded
from serm.relevance.interface import length_batches, unique
from serm.relevance.model import EncodedPairs, attention_of, mean_of
from serm.relevance.ordinal import OrdinalHead, expected_grade
from serm.relevance.packing import pack, packed
from serm.settings import RelevanceSettings, TrainingSettings
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.fit import reproducible
from serm.training.losses import Targets
from serm.training.run import Run

scores = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=20)
gaps = st.tuples(st.floats(-4, 2), st.floats(-4, 2))


def head(first: float = -1.0, log_gaps: tuple[float, float] = (0.0, 0.0)) -> OrdinalHead:
    made = OrdinalHead()
    made.first.data.fill_(first)
    made.log_gaps.data = torch.tensor(log_gaps)
    return made


@given(scores, st.floats(-20, 20), gaps)
def test_a_distribution_sums_to_one(values: list[float], first: float, log_gaps: tuple[float, float]) -> None:
    distribution = head(first, log_gaps).distribution(torch.tensor(values)).detach().numpy()
    assert distribution.shape == (len(values), 4)
    assert (distribution >= 0).all()
    np.testing.assert_allclose(distribution.sum(1), 1, atol=1e-12)


@given(scores, gaps)
def test_a_higher_score_is_never_a_lower_grade(values: list[float], log_gaps: tuple[float, float]) -> None:
    rising = torch.tensor(sorted(values))
    expected = expected_grade(head(-1, log_gaps).distribution(rising)).detach().numpy()
    assert (np.diff(expected) >= -1e-12).all()
    assert expected.min() >= 0
    assert expected.max() <= 3


@given(st.floats(-15, 15), st.integers(0, 3), gaps)
def test_the_log_likelihood_is_the_logarithm_of_the_distribution(
    value: float, grade: int, log_gaps: tuple[float, float]
) -> None:
    made, score = head(-1, log_gaps), torch.tensor([value])
    likelihood = made.log_likelihood(score, torch.tensor([grade])).item()
    assert likelihood == pytest.approx(made.distribution(score)[0, grade].log().item(), abs=1e-3)


def test_the_log_likelihood_of_a_hopeless_score_is_finite_with_a_gradient() -> None:
    score = torch.tensor([500.0, -500.0], requires_grad=True)
    head().log_likelihood(score, torch.tensor([0, 3])).sum().backward()
    assert score.grad is not None
    np.testing.assert_allclose(score.grad, [-1, 1], atol=1e-6)


def test_known_ordinal_probabilities() -> None:
    # theta = -1, 0, 1 and s = 0: the logistic function at 1, 0 and -1.
    distribution = head().distribution(torch.zeros(1)).detach().numpy()
    np.testing.assert_allclose(distribution[0], [0.268941, 0.231059, 0.231059, 0.268941], atol=1e-6)
    assert expected_grade(torch.tensor(distribution)).item() == pytest.approx(1.5)


def test_a_document_is_its_title_then_its_body() -> None:
    assert document_text("grinning face", "a smile") == "grinning face a smile"
    assert document_text("grinning face", "") == "grinning face"


@given(st.lists(st.integers(1, 60), max_size=50), st.integers(1, 200))
def test_batches_hold_each_text_once_and_keep_to_the_budget(lengths: list[int], tokens: int) -> None:
    array = np.array(lengths, np.int64)
    batches = list(length_batches(array, tokens))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * array[batch].max() <= tokens for batch in batches)


def test_spans_name_the_rows_of_each_text_and_pad_the_rest() -> None:
    rows, mask = spans(np.array([4, 0]), np.array([1, 3]), padding=9, width=3)
    assert rows.tolist() == [[4, 9, 9], [0, 1, 2]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_the_mean_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_pool(hidden, torch.tensor([[True, True, False]])).tolist() == [[2.0]]


def test_distinct_texts_keep_their_order() -> None:
    assert unique(["b", "a", "b"])[0] == ["b", "a"]
    assert unique(["b", "a", "b"])[1].tolist() == [0, 1, 0]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 8))
def test_packed_texts_stand_whole_in_one_row_each_and_leave_few_gaps(lengths: list[int], multiple: int) -> None:
    slots, width = pack(np.array(lengths, np.int64), multiple)
    taken = slots.tolist()
    assert len(set(taken)) == sum(lengths)
    texts = np.split(np.array(taken), np.cumsum(lengths)[:-1])
    for text in texts:
        assert (np.diff(text) == 1).all()
        assert text[0] // width == text[-1] // width
    rows = max(taken) // width + 1
    assert width % multiple == 0
    assert max(lengths) <= width < max(lengths) + multiple
    # First fit leaves at most one row half empty: two such would have been one.
    assert rows == 1 or 2 * sum(lengths) > (rows - 1) * width


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_packed_batches_tell_where_each_token_of_each_text_stands(lengths: list[int], tokens: int) -> None:
    array = np.array(lengths, np.int64)
    batches = list(packed(array, tokens))
    assert sorted(i for batch in batches for i in batch.chosen.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert batch.text.size <= tokens or len(batch.text) == 1
        assert batch.mask.sum(1).tolist() == array[batch.chosen].tolist()
        for number, (places, mask) in enumerate(zip(batch.places, batch.mask, strict=True)):
            assert (batch.text.flat[places[mask]] == number).all()
            assert batch.token.flat[places[mask]].tolist() == list(range(mask.sum()))
        assert (batch.text < len(batch.chosen)).sum() == array[batch.chosen].sum()


def test_batches_of_pairs_have_few_shapes_and_little_padding() -> None:
    """Of each shape torch keeps the kernels it made: with one a batch, training grew by gigabytes."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(4, 30, 400)
    states = torch.zeros(int(lengths.sum()) + 1, 2, dtype=torch.half)
    texts = Encoded(torch.zeros(400, 2), states, lengths)
    pairs = EncodedPairs(torch.zeros(4000), texts, texts, *rng.integers(0, 400, (2, 4000)))
    order = np.argsort(pairs.lengths)
    shapes, places, tokens = set(), 0, 0
    for first in rng.integers(0, 3900, 300).tolist():
        chosen = order[first : first + int(rng.integers(60, 90))]
        there = pairs.batch(chosen)[2]
        shapes.add(there.shape)
        places, tokens = places + there.numel(), tokens + int(pairs.lengths[chosen].sum())
    assert len(shapes) < 70
    assert places < 1.15 * tokens


def test_batches_of_texts_have_few_shapes_and_hold_each_text() -> None:
    rng = np.random.default_rng(3)
    shapes = set()
    for count in rng.integers(1, 90, 300).tolist():
        lengths = rng.integers(1, 40, count)
        for batch, size, width in longest_batches(lengths, 4096):
            assert len(batch) <= size <= 1.125 * len(batch)
            assert lengths[batch].max() <= width
            shapes.add((size, width))
    assert len(shapes) < 130


@pytest.mark.parametrize("positions", [29, 30, 32])
def test_a_text_as_long_as_the_encoder_has_places_is_encoded(positions: int, tmp_path: Path) -> None:
    base = tiny_encoder.write(tmp_path / "encoder", positions=positions)
    encoder = load_encoder(str(base), RelevanceSettings(max_tokens=positions))
    long = encoder.read(["wireless mouse for small hands, black"], "query")[0]
    assert len(long.ids) == positions
    for steady in (False, True):
        assert np.isfinite(encoder.run([long.ids], None, steady).vectors.numpy()).all()


def test_a_cross_encoder_learns_without_dropout(tmp_path: Path) -> None:
    """Whatever the random numbers are, the loss is the same; in samples of its opinion layers do drop out."""
    base = tiny_encoder.write(tmp_path / "encoder", dropout=0.5)
    model = RelevanceModel.from_encoder(load_encoder(str(base), RelevanceSettings()), 2)
    model.residual.head.weight.data = torch.arange(32.0)[None] / 32
    pairs = model.pairs(["cat", "dog"], ["cat face", "cat face"])
    targets = Targets(torch.eye(4)[[3, 0]], torch.ones(2), torch.arange(2))
    task = CrossEncoderTask(model, pairs, targets, TrainingSettings(precision="fp32"))
    Run(task, TrainingSettings(), 1)  # as a training begins
    rows, losses = np.arange(2), set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.add(task.loss(rows, rows).item())
    assert len(losses) == 1
    assert (model.sample(["cat"], ["cat face"], 2, 1)[0] != model.sample(["cat"], ["cat face"], 2, 2)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_that_was_saved_in_half_precision_is_read_and_learns(tmp_path: Path, dtype: torch.dtype) -> None:
    base = tiny_encoder.write(tmp_path / "encoder", dtype=dtype)
    model = RelevanceModel.from_encoder(load_encoder(str(base), RelevanceSettings()), 2)
    pairs = model.pairs(["cat", "dog"], ["cat face", "cat face"])
    targets = Targets(torch.eye(4)[[3, 0]], torch.ones(2), torch.arange(2))
    before = [weight.clone() for weight in model.residual.parameters()]
    run = Run(CrossEncoderTask(model, pairs, targets, TrainingSettings(precision="fp32")), TrainingSettings(), 2)
    for _ in range(2):
        run.update(np.arange(2))
    run.finish()
    assert any((weight != old).any() for weight, old in zip(model.residual.parameters(), before, strict=True))
    expected = model.score(["cat"], ["cat face"]).expected
    model.save(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").score(["cat"], ["cat face"]).expected, expected, atol=1e-4)


def test_a_training_leaves_torch_as_it_found_it_and_fills_no_new_tensor() -> None:
    def state() -> tuple[object, ...]:
        allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
        filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filled, allowed

    before = state()
    other = torch.get_num_threads() % 2 + 1
    inside = []

    def fails() -> None:
        with reproducible(TrainingSettings(threads=other)):
            inside.append(state())
            raise UserError("it fails")

    with pytest.raises(UserError):
        fails()
    assert inside == [(other, True, False, True)]
    assert state() == before


def test_a_packed_texts_mean_leaves_the_others_and_the_padding_out() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    texts = torch.tensor([[0, 0, 1], [2, 2, 3]])
    assert mean_of(hidden, texts, 3).tolist() == [[1, 2], [4, 5], [7, 8]]
    attention = attention_of(texts)
    assert attention.shape == (2, 1, 3, 3)
    assert attention[0, 0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
