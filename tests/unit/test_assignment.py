"""Who is in which group of an experiment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency

from serm.rollout.assignment import Experiment, assign, exposure, serves, shares
from serm.rollout.split import place, variant

USERS = [f"user-{number}" for number in range(20_000)]
percents = st.floats(0, 100)


@given(st.text(), st.text(), percents, percents)
def test_nobody_is_moved_between_challenger_and_control_as_the_ramp_grows(
    user: str, name: str, one: float, other: float
) -> None:
    low, high = sorted((one, min(other, 50), 50.0))[:2]
    before, after = (assign(user, Experiment(name), percent) for percent in (low, high))
    if before in ("challenger", "control"):
        assert after == before


@given(st.text(), st.text(), percents)
def test_who_is_served_is_what_the_split_serves(user: str, name: str, percent: float) -> None:
    assert serves(assign(user, Experiment(name), percent)) == variant(user, name, percent)


@pytest.mark.parametrize("percent", [1, 5, 25, 50])
def test_the_control_is_as_large_as_the_challenger(percent: float) -> None:
    groups = [assign(user, Experiment("cycle-0003"), percent) for user in USERS]
    for group, share in zip(("challenger", "control"), shares(percent), strict=True):
        assert binomtest(groups.count(group), len(USERS), share).pvalue > 1e-4


def test_past_half_of_the_users_the_control_is_all_the_others() -> None:
    assert {assign(user, Experiment("x"), 80) for user in USERS} == {"challenger", "control"}
    assert shares(80) == (0.8, pytest.approx(0.2))
    assert {assign(user, Experiment("x"), 100) for user in USERS} == {"challenger"}
    assert {assign(user, Experiment("x"), 0) for user in USERS} == {"champion"}


def test_experiments_of_one_layer_share_no_user_and_fill_their_ranges() -> None:
    one, other = Experiment("a", "ranking", 0, 30), Experiment("b", "ranking", 30, 100)
    inside = [[assign(user, of, 50) != "outside" for user in USERS] for of in (one, other)]
    assert not one.overlaps(other)
    assert all(a != b for a, b in zip(*inside, strict=True))
    assert binomtest(sum(inside[0]), len(USERS), 0.3).pvalue > 1e-4


def test_experiments_of_two_layers_are_independent() -> None:
    one, other = Experiment("a", "ranking", 0, 50), Experiment("b", "retrieval", 0, 50)
    assert one.overlaps(other)
    table = [[0, 0], [0, 0]]
    for user in USERS:
        table[assign(user, one, 50) == "outside"][assign(user, other, 50) == "outside"] += 1
    assert chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(("low", "high", "layer"), [(50, 50, "a"), (-1, 10, "a"), (0, 101, "a"), (0, 50, "")])
def test_a_range_that_cannot_be_is_refused(low: float, high: float, layer: str) -> None:
    with pytest.raises(ValueError, match="range"):
        Experiment("x", layer, low, high)


@given(st.text(), st.text())
def test_a_place_is_below_100(user: str, key: str) -> None:
    assert 0 <= place(user, key) < 100


def test_an_exposure_says_in_openfeatures_words_who_was_served_what() -> None:
    told = exposure("user-1", Experiment("cycle-0004"), 20)
    assert told == {
        "flagKey": "cycle-0004",
        "targetingKey": "user-1",
        "variant": "challenger",
        "value": "challenger",
        "reason": "SPLIT",
        "flagMetadata": {"percent": 20, "layer": ""},
    }
    outside = exposure("user-1", Experiment("cycle-0004", layer="ranking", low=50, high=100), 20)
    assert (outside["variant"], outside["value"], outside["reason"]) == ("outside", "champion", "TARGETING_MATCH")
