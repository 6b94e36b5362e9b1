"""Measures of a ranking and the calibration error, by hand and against peers; which pairs share a token."""

from __future__ import annotations

from math import log2

import hypothesis.strategies as st
import ir_measures
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import settings as runs
from ir_measures import AP, RR, P, nDCG

from serm.evaluation.calibration import calibration
from serm.evaluation.measures import PAIRWISE, measure, names, ndcg
from serm.evaluation.overlap import share_token, tokens
from serm.settings import EvaluationSettings

SETTINGS = EvaluationSettings(permutations=500)


def _ndcg(grades: list[int], scores: list[float], cutoffs: list[int], seed: int = 0) -> list[float]:
    zeros = np.zeros(len(grades), dtype=np.int64)
    return ndcg(zeros, np.array(grades), np.array(scores), cutoffs, seed)[0].tolist()


def test_ndcg_by_hand() -> None:
    # Ranked 1, 3, 0, 2: linear gain, discount log2(rank + 1).
    found = _ndcg([3, 2, 1, 0], [0.8, 0.1, 0.9, 0.5], [1, 2, 10])
    ideal = 3 + 2 / log2(3) + 1 / 2
    assert found == pytest.approx(
        [1 / 3, (1 + 3 / log2(3)) / (3 + 2 / log2(3)), (1 + 3 / log2(3) + 2 / log2(5)) / ideal]
    )


@runs(max_examples=examples(20))
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_measures_are_those_of_ir_measures(seed: int, relevant: int) -> None:
    rng = np.random.default_rng(seed)
    queries = np.repeat(np.arange(12), rng.integers(1, 15, 12))
    grades, scores = rng.integers(0, 4, queries.size), rng.random(queries.size)
    settings = EvaluationSettings(relevant_grade=relevant)
    found = measure(queries, grades, scores, settings)
    rows = [str(row) for row in range(queries.size)]
    qrels = [ir_measures.Qrel(str(q), d, int(g)) for q, d, g in zip(queries, rows, grades, strict=True)]
    run = [ir_measures.ScoredDoc(str(q), d, float(s)) for q, d, s in zip(queries, rows, scores, strict=True)]
    peers = [nDCG @ 1, nDCG @ 5, nDCG @ 10, AP(rel=relevant), RR(rel=relevant), P(rel=relevant) @ 5]
    assert names(settings) == ["NDCG@1", "NDCG@5", "NDCG@10", "AP", "RR", "P@5", PAIRWISE]
    for metric in ir_measures.iter_calc(peers, qrels, run):
        assert found[int(metric.query_id), peers.index(metric.measure)] == pytest.approx(metric.value)


@runs(max_examples=examples(50))
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=25), st.integers(0, 99))
def test_pairwise_accuracy_counts_pairs(rows: list[tuple[int, int]], seed: int) -> None:
    distinct = sorted({query for query, _ in rows})
    queries = np.array([distinct.index(query) for query, _ in rows])
    grades = np.array([grade for _, grade in rows])
    scores = np.random.default_rng(seed).permutation(len(rows)).astype(float)
    found = measure(queries, grades, scores, SETTINGS)[:, names(SETTINGS).index(PAIRWISE)]
    for query in range(len(distinct)):
        mine = np.flatnonzero(queries == query)
        right = [scores[a] > scores[b] for a in mine for b in mine if grades[a] > grades[b]]
        assert found[query] == pytest.approx(np.mean(right) if right else 1)


def test_ties_are_shuffled() -> None:
    grades = [3] * 5 + [0] * 45  # the file has the best documents first, as judged pools often do
    over_seeds = [_ndcg(grades, [1.0] * 50, [5], seed)[0] for seed in range(200)]
    assert np.mean(over_seeds) == pytest.approx(0.1, abs=0.03)  # what a random order has
    assert _ndcg(grades, [1.0] * 50, [5], 7) == _ndcg(grades, [1.0] * 50, [5], 7)


def test_scores_closer_than_32_bits_are_no_tie() -> None:
    scores = [1 + 1e-12, 1.0]
    assert [_ndcg([3, 0], scores, [1], seed) for seed in range(20)] == [[1.0]] * 20


def _worlds(n: int, each: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Pairs whose grades are drawn from the champion's distributions; the challenger's are sharper by ``noise``."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.ones(4), n * each)
    grades = (rng.random((n * each, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    sharper = honest ** (1 + noise)
    both = {"champion": honest, "challenger": sharper / sharper.sum(axis=1, keepdims=True)}
    return np.repeat(np.arange(n), each), grades, both


def test_calibration_error_by_hand() -> None:
    # Two bins. Grade 0: 0.9 said, none seen, 0.9 each. Grade 3: 0.1 said, all seen, 0.9 each. Grades 1 and 2: 0.
    sure = np.array([[0.9, 0.0, 0.0, 0.1]] * 6)
    right = np.array([[0.0, 0.0, 0.0, 1.0]] * 6)
    found = calibration(
        np.array([0, 0, 0, 1, 1, 1]),
        np.array([3] * 6),
        {"champion": sure, "challenger": right},
        EvaluationSettings(calibration_bins=2, permutations=100),
    )
    assert (found.n, found.pairs) == (2, 6)
    assert found.champion == pytest.approx((0.9 + 0.9) / 4)
    assert (found.challenger, found.difference) == (pytest.approx(0), pytest.approx(-0.45))
    assert (found.low, found.high) == (pytest.approx(-0.45), pytest.approx(-0.45))


def test_an_honest_model_has_little_error_and_an_overconfident_one_is_found() -> None:
    found = calibration(*_worlds(300, 20, 1.5, 1), SETTINGS)
    assert found.champion < 0.02
    assert found.low > 0.03
    same = calibration(*_worlds(300, 20, 0.0, 2), SETTINGS)
    assert (same.difference, same.low, same.high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(
    ("query", "document", "locale", "shared"),
    [
        ("Cat", "grinning CAT face", "en", True),
        ("cat", "category", "en", False),
        ("straße", "STRASSE", "de", True),
        ("हिंदी", "हिंसा", "hi", False),  # the same letters before the vowel signs
        ("หมา", "หน้าหมายิ้ม", "th", True),
        ("猫", "笑う猫の顔", "ja", True),
        ("猫の顔", "猫", "ja", True),
        ("犬", "笑う猫の顔", "ja", False),
        ("고양이", "고양이가 웃는다", "ko", True),
        ("笑", "微笑的脸", "zh-Hant", True),
        ("con mèo", "mặt mèo", "vi", True),
        ("!", "!", "en", False),
    ],
)
def test_shared_tokens(query: str, document: str, locale: str, shared: bool) -> None:
    assert share_token(query, document, locale) is shared


def test_marks_belong_to_words() -> None:
    assert tokens("हिन्दी भाषा") == {"हिन्दी", "भाषा"}
    assert tokens("sun-glasses, Ⅻ") == {"sun", "glasses", "xii"}
