"""What texts say is a likelihood ratio: put to the seed's own mix of grades, it is what the regression believes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from serm.judging.evidence.text_likelihood import TextLikelihood


def world(seed: int, size: int = 600) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    grades = rng.choice(4, size, p=[0.55, 0.2, 0.15, 0.1])
    return {"words": rng.normal(grades[:, None], 1.0, (size, 2)), "noise": rng.normal(size=(size, 1))}, grades


def test_bayes_rule_gives_back_what_the_regression_believes() -> None:
    features, grades = world(0)
    fitted = TextLikelihood.fit(features, grades)
    ratio = fitted.log_ratio(features, len(grades))
    assert fitted.regression is not None
    believed = fitted.regression.predict_proba(np.hstack(list(features.values())))
    np.testing.assert_allclose(softmax(ratio + fitted.log_prior, axis=1), believed, atol=1e-5)


def test_pairs_of_another_mix_of_grades_are_believed_by_their_own_prior() -> None:
    """Known answer: with two normals apart by one, the log ratio of their densities is linear with slope one."""
    rng = np.random.default_rng(1)
    grades = np.repeat([0, 3], [3000, 1000])
    fitted = TextLikelihood.fit({"x": rng.normal(grades == 3, 1.0)[:, None]}, grades)
    at = np.array([[-1.0], [0.5], [2.0]])
    ratio = fitted.log_ratio({"x": at}, 3)
    np.testing.assert_allclose(ratio[:, 3] - ratio[:, 0], at[:, 0] - 0.5, atol=0.2)


@pytest.mark.parametrize(("features", "grades"), [({}, [0, 1, 2, 3]), ({"x": np.ones((4, 1))}, [2, 2, 2, 2])])
def test_without_features_or_with_one_grade_texts_say_nothing(
    features: dict[str, np.ndarray], grades: list[int]
) -> None:
    fitted = TextLikelihood.fit(features, np.array(grades))
    assert (fitted.log_ratio(features, 4) == 0).all()
    np.testing.assert_allclose(np.exp(fitted.log_prior).sum(), 1)


def test_a_grade_that_no_seed_judgment_has_is_unlikely_and_not_impossible() -> None:
    features, grades = world(2)
    kept = grades != 1
    fitted = TextLikelihood.fit({name: of[kept] for name, of in features.items()}, grades[kept])
    ratio = fitted.log_ratio(features, len(grades))
    assert np.isfinite(ratio).all()
    assert (ratio[:, 1] < ratio.max(axis=1) - 5).all()
