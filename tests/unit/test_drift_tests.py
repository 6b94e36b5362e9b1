"""The drift tests on windows made by hand: their level, their power, seasons, and what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import roc_auc_score

from serm import contracts
from serm.drift import catalogue, embeddings, heavy_users, permutation, sample
from serm.drift.decision import DriftTest, decided
from serm.drift.drift import exchange
from serm.drift.permutation import Outcome, Permutations
from serm.settings import DriftSettings

SETTINGS = DriftSettings(permutations=499, embedded_queries=500)


def by_spelling(texts: Sequence[str]) -> NDArray[np.float32]:
    """An encoder by spelling: unit vectors [n, 256]."""
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=256, alternate_sign=False)
    return letters.transform(texts).toarray().astype(np.float32)


def window(cycle: int, mix: dict[str, float], users: int = 150, clicks: float = 0.4, seed: int = 0) -> pa.Table:
    """SAMPLES of users who ask 1 to 8 queries of a topic each, a topic one user's; topics by their share."""
    rng = np.random.default_rng([cycle, seed])
    topics = rng.choice(list(mix), users, p=list(mix.values()))
    rows = []
    for user, topic in enumerate(topics):
        for turn in range(rng.integers(1, 9)):
            query = f"{topic} {'abcdefghij'[rng.integers(10)]}"
            rows += [
                {"cycle": cycle, "user_id": f"u{user}", "query_id": f"{cycle}-{user}-{turn}", "locale": "en"}
                | {"query": query, "position": position, "clicked": bool(rng.random() < clicks / position)}
                | {"score": float(3 - position / 4 + rng.normal(0, 0.2)), "model_version": "m"}
                for position in (1, 2, 3)
            ]
    return pa.Table.from_pylist(rows, contracts.SAMPLES)


def judged(*windows: pa.Table, settings: DriftSettings = SETTINGS) -> dict[str, DriftTest]:
    *earlier, now = windows
    tests, _ = exchange(sample.together(earlier, now), by_spelling, settings)
    return {test.name: test for test in decided(tests, settings.alpha)}


def drifted(tests: dict[str, DriftTest]) -> set[str]:
    return {name for name, test in tests.items() if test.decision == "drift"}


SUMMER, WINTER = {"beach": 0.6, "sled": 0.1, "phone": 0.3}, {"beach": 0.1, "sled": 0.6, "phone": 0.3}


def test_windows_of_one_world_alarm_at_the_rate_that_is_set() -> None:
    # Every user asks for one topic only: tests that took searches as independent would alarm most of the time.
    alarms = sum(bool(drifted(judged(window(0, SUMMER, 60, seed=i), window(1, SUMMER, 60, seed=i)))) for i in range(20))
    assert alarms <= 3  # 5 % of 20 is 1; more than 3 has a chance of 1.6 %


def test_each_tests_p_is_uniform_without_drift() -> None:
    p = [judged(window(0, SUMMER, 60, seed=i), window(1, SUMMER, 60, seed=i))["scripts"].p for i in range(3)]
    assert p == [1.0] * 3  # one script only: nothing to tell
    rng = np.random.default_rng(5)
    members = np.repeat([0, 1], 40)
    found = []
    for seed in range(300):
        features = rng.poisson(3, (80, 4)) * rng.integers(1, 9, (80, 1))
        found.append(Permutations(members, 99, seed).test(features.astype(np.float32), permutation.moved).p)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 300))


def test_a_season_that_came_back_is_quiet_and_one_earlier_window_cannot_know() -> None:
    summer = judged(window(3, SUMMER), window(4, WINTER))
    assert {"query embeddings", "query classifier"} <= drifted(summer)
    year = [window(cycle, SUMMER if cycle % 2 else WINTER) for cycle in range(4)]
    assert drifted(judged(*year, window(4, WINTER))) == set()
    usual = judged(*year, window(4, WINTER))["query embeddings"]
    assert usual.p is not None
    assert usual.usual is not None
    assert usual.value is not None
    assert usual.value < usual.usual  # unlike the mean of the year, as each earlier season is


def test_news_and_a_change_beyond_the_seasons_are_drift() -> None:
    year = [window(cycle, SUMMER if cycle % 2 else WINTER) for cycle in range(4)]
    found = judged(*year, window(4, {"beach": 0.05, "sled": 0.3, "phone": 0.3, "vaccine": 0.35}))
    assert {"query embeddings", "new words", "new queries", "topics"} <= drifted(found)
    (topic, *_) = found["topics"].examples
    assert topic["name"] == "vaccine" or "vaccine" in str(topic["name"])
    assert topic["before"] == 0.0
    assert found["new words"].finding.endswith(": vaccine")


def test_clicks_that_fell_are_drift_and_the_rest_is_not() -> None:
    found = judged(window(0, SUMMER, 400), window(1, SUMMER, 400, clicks=0.3))
    assert drifted(found) == {"click rate by position", "clicks a search", "abandonment"}
    assert "end without a click" in found["abandonment"].finding


def test_scores_of_another_model_are_not_compared() -> None:
    late = window(1, SUMMER)
    column = late.column_names.index("model_version")
    late = late.set_column(column, contracts.SAMPLES.field("model_version"), pa.array(["n"] * len(late)))
    scores = judged(window(0, SUMMER), late)["scores"]
    assert (scores.decision, scores.p) == ("not tested", None)
    assert "no model version served in this and in an earlier window" in scores.finding


def test_the_locale_mix_is_the_share_of_searches_that_moved_counted_by_hand() -> None:
    late = window(1, SUMMER)
    moved = pc.ends_with(late["user_id"], "3")
    column = late.column_names.index("locale")
    late = late.set_column(column, contracts.SAMPLES.field("locale"), pc.if_else(moved, "sv", late["locale"]))
    by_hand = len(late.filter(moved)) / len(late)
    found = judged(window(0, SUMMER), late)
    assert 0 < by_hand < 0.5
    assert [found[name].value for name in ("locale mix", "new locales")] == pytest.approx([by_hand, by_hand])
    assert found["new locales"].examples == [{"name": "sv", "before": 0.0, "now": round(by_hand, 6)}]
    assert "most moved" in found["locale mix"].finding


def test_what_is_significant_but_small_is_quiet_and_holm_corrects() -> None:
    def outcome(name: str, p: float, effect: float) -> DriftTest:
        return DriftTest.of(name, "s", Outcome(effect, 0.0, p, None), 0.02, "")

    tests = [outcome("small", 0.001, 0.019), outcome("large", 0.02, 0.1), outcome("unsure", 0.03, 0.1)]
    small, large, unsure = decided(tests, 0.05)
    assert [one.adjusted_p for one in (small, large, unsure)] == pytest.approx([0.003, 0.04, 0.04])
    assert [one.decision for one in (small, large, unsure)] == ["quiet", "drift", "drift"]
    assert decided([*tests, outcome("more", 0.5, 0.1)], 0.05)[1].decision == "quiet"  # 0.06


@given(st.integers(0, 2**32 - 1))
def test_the_area_from_rank_sums_is_the_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, label = rng.integers(0, 6, 30), np.r_[0, 1, rng.integers(0, 2, 28)]
    middle = np.array([((score < s).sum() + (score == s).sum() / 2) / 30 for s in score])
    now, before = (np.array([[middle[label == one].sum(), (label == one).sum()]]) for one in (1, 0))
    assert embeddings._auc(now, before)[0] == pytest.approx(roc_auc_score(label, score))


def test_random_features_give_the_kernels_discrepancy() -> None:
    compared = sample.together([window(0, SUMMER)], window(1, WINTER))
    settings = DriftSettings(permutations=499)
    permutations = Permutations(compared.window, 499, 0)
    tests = embeddings.Embeddings(compared, permutations, by_spelling, settings)
    found = tests.distance()
    squared = np.maximum(2 - 2 * tests.vectors @ tests.vectors.T, 0)
    kernel = np.exp(-squared / (2 * np.median(squared[np.triu_indices(len(squared), 1)])))
    shares = tests.counts / tests.counts.sum(axis=1, keepdims=True)
    difference = shares[1] - shares[0]
    assert found.value == pytest.approx(difference @ kernel @ difference, rel=0.35)


def histogram(clicks: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack(np.unique(clicks, return_counts=True), axis=1)


@pytest.mark.parametrize("length", [1, 2])
def test_a_click_bot_is_told_from_busy_users(length: int) -> None:
    rng = np.random.default_rng(1)
    before, now = (histogram(np.maximum(rng.geometric(0.25, 4000) * k, 1)) for k in (1, length))
    quiet = heavy_users.test_heaviest(before, now, SETTINGS)
    assert quiet.p is not None
    assert quiet.p > 0.01
    assert decided([quiet], 0.05)[0].decision == "quiet"
    bots = np.concatenate([now, [[900, 3]]])
    caught = decided([heavy_users.test_heaviest(before, bots, SETTINGS)], 0.05)[0]
    assert caught.decision == "drift"
    assert "3 users beyond the usual tail" in caught.finding


def test_a_sampled_catalogue_tells_the_shares_of_the_whole() -> None:
    def offered(cycle: int, ids: range, title: str) -> pa.Table:
        rows = [{"cycle": cycle, "doc_id": f"d{i}", "locale": "en", "title": title} for i in ids]
        rows.sort(key=lambda row: catalogue.draw_key(str(row["doc_id"]), settings.seed))
        return pa.Table.from_pylist(rows[: settings.sample_documents], contracts.CATALOGUES)

    settings = DriftSettings(sample_documents=1000)
    found = catalogue.compare(offered(0, range(5000), "t"), offered(1, range(500, 6000), "t"), settings)
    assert found.value == pytest.approx(1000 / 5500, abs=0.03)
    assert "±" in found.finding
    renamed = catalogue.compare(offered(0, range(500), "t"), offered(1, range(500), "u"), settings)
    assert "0.0% are gone, 100.0% have another title" in renamed.finding
    assert "±" not in renamed.finding
    assert catalogue.compare(contracts.CATALOGUES.empty_table(), offered(1, range(9), "t"), settings).p is None
