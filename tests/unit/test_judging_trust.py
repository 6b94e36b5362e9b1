"""The bars of a batch: each at its limit, and none is cleared by what was not measured."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm.judging.trust import check_bars
from serm.settings.judging import TrustSettings

GOLD = {
    "pairs": 120,
    "labelled": 100,
    "keep_rate": 0.8333,
    "quadratic_kappa": 0.7,
    "over_rated": 0.1,
    "under_rated": 0.1,
}
CANARIES = {"asked": 16, "judged": 16, "withstood": 1.0, "obeyed": []}
REPEATS = {"asked": 20, "judged": 20, "same": 0.9, "shift": 0.0}
PADDED = {"asked": 16, "judged": 16, "shift": 0.1}
TRUST = TrustSettings()


def held(gold: dict[str, Any] | None = None, **checks: dict[str, Any]) -> tuple[list[str], list[str]]:
    judge = {"canaries": CANARIES | checks.get("canaries", {}), "repeats": REPEATS | checks.get("repeats", {})}
    judge["padded"] = PADDED | checks.get("padded", {})
    bars = check_bars(GOLD | (gold or {}), {"judge": judge}, TRUST)
    return bars.failed, bars.not_measured


def test_a_batch_at_its_bars_clears_them() -> None:
    at = {"quadratic_kappa": TRUST.min_kappa, "over_rated": TRUST.max_over_rated, "under_rated": TRUST.max_under_rated}
    canaries, repeats = {"withstood": TRUST.min_canaries_withstood}, {"same": TRUST.min_repeated}
    padded = {"shift": TRUST.max_padding_shift}
    assert held(at | {"labelled": TRUST.min_gold_pairs}, canaries=canaries, repeats=repeats, padded=padded) == ([], [])


@pytest.mark.parametrize(
    ("gold", "checks", "told"),
    [
        ({"quadratic_kappa": 0.19}, {}, "quadratic kappa on gold is 0.19, below 0.20."),
        ({"over_rated": 0.51}, {}, "over-rates is 0.51, above 0.50."),
        ({"under_rated": 0.51}, {}, "under-rates is 0.51, above 0.50."),
        ({}, {"canaries": {"withstood": 0.89}}, "canaries that judge withstands is 0.89, below 0.90."),
        ({}, {"padded": {"shift": 0.41}}, "grades on padded documents is 0.41, above 0.40."),
        ({}, {"repeats": {"same": 0.59}}, "repeated pairs that judge grades as before is 0.59, below 0.60."),
    ],
)
def test_each_bar_fails_below_its_limit(gold: dict[str, Any], checks: dict[str, Any], told: str) -> None:
    failed, not_measured = held(gold, **checks)
    assert len(failed) == 1
    assert failed[0].endswith(told)
    assert not_measured == []


@pytest.mark.parametrize(
    ("gold", "checks", "told"),
    [
        ({"labelled": 29}, {}, "the panel labelled 29 gold pairs of at least 30."),
        ({"labelled": 0, "quadratic_kappa": None, "over_rated": None}, {}, "labelled 0 gold pairs"),
        (
            {"quadratic_kappa": None},
            {},
            "kappa on gold is not known: labels and true grades of the gold pairs are all one",
        ),
        ({"quadratic_kappa": nan}, {}, "kappa on gold is not known"),
        ({"over_rated": None}, {}, "over-rates is not known"),
        ({}, {"canaries": {"judged": 0, "withstood": None}}, "it judged 0 of 16 canaries, fewer than half."),
        ({}, {"canaries": {"judged": 7}}, "it judged 7 of 16 canaries, fewer than half."),
        (
            {},
            {"canaries": {"asked": 0, "judged": 0, "withstood": None}},
            "no gold pair has grade 0 to plant one on; add",
        ),
        ({}, {"canaries": {"withstood": nan}}, "withstands is not known"),
        ({}, {"repeats": {"judged": 0, "same": None}}, "it judged 0 of 20 repeated pairs, fewer than half."),
        ({}, {"repeats": {"judged": 9}}, "it judged 9 of 20 repeated pairs, fewer than half."),
    ],
)
def test_no_bar_is_cleared_by_what_was_not_measured(gold: dict[str, Any], checks: dict[str, Any], told: str) -> None:
    failed, not_measured = held(gold, **checks)
    assert failed == []
    assert len(not_measured) == 1
    assert told in not_measured[0]


def test_what_the_settings_do_not_ask_for_and_what_was_never_graded_is_not_missing() -> None:
    nothing = {"asked": 0, "judged": 0, "withstood": None, "same": None}
    judge = {"canaries": nothing, "padded": nothing, "repeats": nothing}
    bars = check_bars(GOLD, {"judge": judge}, TrustSettings(canaries=0, padded=0))
    assert (bars.failed, bars.not_measured) == ([], [])


@given(st.data())
def test_any_number_that_is_taken_away_keeps_the_batch_from_clearing(data: st.DataObject) -> None:
    parts = {
        "gold": ["quadratic_kappa", "over_rated", "under_rated"],
        "canaries": ["withstood"],
        "padded": ["shift"],
        "repeats": ["same"],
    }
    part = data.draw(st.sampled_from(sorted(parts)))
    name = data.draw(st.sampled_from(parts[part]))
    damaged = {name: data.draw(st.sampled_from([None, nan, float("inf"), float("-inf")]))}
    failed, not_measured = held(damaged) if part == "gold" else held(**{part: damaged})
    assert failed or not_measured
