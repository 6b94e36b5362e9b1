"""Interleaved lists, against the published examples, and what clicks on them say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm.rollout.interleaving import balanced, balanced_credit, credit, preference, team_draft

# Radlinski, Kurup and Joachims (CIKM 2008), figure 1: two rankings of documents about the Napa valley.
A = ["napavalley.com", "napavalley.com/wineries", "napavalley.edu", "been-there", "napavalley.org", "napavintners"]
B = ["en.wikipedia.org", "napavalley.com", "napavalley.org", "bbonline", "cityofnapa.org", "napavalley.com/wineries"]
RANKING = st.lists(st.integers(0, 15).map(str), max_size=12, unique=True)


def test_each_pick_of_the_published_example_is_one_that_the_draft_allows() -> None:
    lists = {tuple((s.doc_id, s.team) for s in team_draft(A, B, f"q{n}", 6)) for n in range(400)}
    assert len(lists) == 8  # three coins
    firsts = {one[0] for one in lists}
    assert firsts == {("napavalley.com", "champion"), ("en.wikipedia.org", "challenger")}
    published = (
        ("napavalley.com", "champion"),
        ("en.wikipedia.org", "challenger"),
        ("napavalley.org", "challenger"),
        ("napavalley.com/wineries", "champion"),
        ("napavalley.edu", "champion"),
        ("bbonline", "challenger"),
    )
    assert published in lists


@given(RANKING, RANKING, st.text(max_size=5), st.integers(1, 12))
def test_a_draft_holds_each_document_once_and_as_many_of_each_team(
    champion: list[str], challenger: list[str], key: str, length: int
) -> None:
    shown = team_draft(champion, challenger, key, length)
    ids = [one.doc_id for one in shown]
    assert len(ids) == len(set(ids)) == min(length, len({*champion, *challenger}))
    assert shown == team_draft(champion, challenger, key, length)
    teams = [one.team for one in shown]
    if all(doc in challenger for doc in champion) and len(champion) == len(challenger):
        assert abs(teams.count("champion") - teams.count("challenger")) <= 1
    if champion == challenger:
        assert set(teams) <= {None}


@given(RANKING, RANKING, st.text(max_size=5))
def test_the_top_of_a_balanced_list_is_that_of_both_rankings(
    champion: list[str], challenger: list[str], key: str
) -> None:
    """Joachims (KDD 2002), theorem 1: the top is the union of the first k of one and k or k + 1 of the other."""
    shown = balanced(champion, challenger, key, 30)
    assert sorted(shown) == sorted({*champion, *challenger})
    tops = [{*champion[:k], *challenger[: k + more]} for k in range(13) for more in (-1, 0, 1) if k + more >= 0]
    shorter = min(len(champion), len(challenger))
    for cut in range(len(shown)):
        if len(set(shown[:cut])) <= shorter:
            assert set(shown[:cut]) in tops


def test_a_click_counts_for_who_put_the_document_there() -> None:
    shown = team_draft(["a", "b", "c"], ["a", "x", "y"], "k", 5)
    assert [one.team for one in shown if one.doc_id == "a"] == [None]
    assert credit(shown, ["a"]) == 0
    assert credit(shown, ["x"]) == 1
    assert credit(shown, ["a", "b", "c", "x"]) == -1
    assert balanced_credit(["a", "b", "c"], ["b", "a", "c"], ["b"]) == 1
    assert balanced_credit(["a", "b", "c"], ["b", "a", "c"], ["a", "b"]) == 0
    assert balanced_credit(["a", "b"], ["b", "a"], ["z"]) == 0


def test_users_who_click_by_lot_prefer_nobody_and_those_who_know_prefer_the_better() -> None:
    random = np.random.default_rng(3)
    good = [f"d{n}" for n in range(10)]
    poor = [*good[5:], *good[:5]]
    by_lot, knowing = {}, {}
    for user in range(600):
        shown = team_draft(poor, good, f"u{user}")
        by_lot[f"u{user}"] = [credit(shown, random.choice(good, 2, replace=False).tolist())]
        knowing[f"u{user}"] = [credit(shown, [doc for doc in good[:3] if random.random() < 0.5])]
    nobody, better = preference(by_lot, 0.05, 600), preference(knowing, 0.05, 600)
    assert nobody.low < 0 < nobody.high
    assert better.low > 0.3


def test_a_user_counts_once_however_many_pages_they_saw() -> None:
    one = preference({"a": [1] * 100, "b": [-1], "c": [1], "d": [-1]}, 0.05, 4)
    assert one.difference == pytest.approx(0.0)
    assert preference({"a": [1]}, 0.05, 10).low == -np.inf
