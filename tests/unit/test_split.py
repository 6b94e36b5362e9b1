"""The split of users between champion and challenger."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency

from serm.rollout.assignment import Experiment, assign
from serm.rollout.split import place, variant

percents = st.floats(0, 100)


@given(st.text(), st.text(), percents, percents)
def test_a_user_stays_as_the_percentage_grows(user: str, experiment: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if variant(user, experiment, low) == "challenger":
        assert variant(user, experiment, high) == "challenger"


@given(st.text(), st.text())
def test_none_and_all(user: str, experiment: str) -> None:
    assert variant(user, experiment, 0) == "champion"
    assert variant(user, experiment, 100) == "challenger"


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_the_share_is_the_percentage(percent: int) -> None:
    users = 20000
    seen = sum(variant(f"user-{number}", "cycle-0001", percent) == "challenger" for number in range(users))
    assert binomtest(seen, users, percent / 100).pvalue > 1e-4


def test_experiments_are_independent() -> None:
    table = [[0, 0], [0, 0]]
    for number in range(20000):
        one, other = (variant(f"user-{number}", experiment, 50) == "champion" for experiment in ("a", "b"))
        table[one][other] += 1
    assert chi2_contingency(table).pvalue > 1e-4


def test_the_documented_places_are_what_it_gives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rollout.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \| ([\d.]+) \| (\w*) ?\|$", page, flags=re.MULTILINE)
    assert len(rows) == 5
    for user, key, where, group in rows:
        assert place(user, key) == float(where)
        assert group in ("", assign(user, Experiment(key), 20))
