"""Interleaved lists, against the published examples, and what clicks on them say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serm import cli, contracts
from serm.errors import UserError
from serm.rollout import interleaved
from serm.rollout.interleaving import balanced, balanced_credit, credit, preference, team_draft
from serm.settings import EngineSettings

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


def test_a_log_of_interleaved_pages_says_what_their_clicks_do(
    make_impressions: Callable[..., pa.Table], tmp_path: Path
) -> None:
    rows, credits = [], {}
    given = make_impressions(searches=1).to_pylist()[0]
    generator = np.random.default_rng(3)
    for number in range(300):
        page = team_draft(["a", "b", "c", "d"], ["a", "d", "c", "b"], f"q{number}", 4)
        clicked = [one.doc_id for one in page if generator.random() < (0.5 if one.team == "challenger" else 0.2)]
        credits.setdefault(f"u{number % 40}", []).append(credit(page, clicked))
        rows += [
            given
            | {"query_id": f"q{number}", "user_id": f"u{number % 40}", "doc_id": one.doc_id, "position": position}
            | {"clicked": one.doc_id in clicked, "variant": f"interleaved:{one.team or 'both'}"}
            for position, one in enumerate(page, 1)
        ]
    rows += [given | {"query_id": "other", "user_id": "v", "variant": "challenger"}]  # of no interleaved page
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), tmp_path / "log", contracts.IMPRESSIONS)
    found = interleaved.read(tmp_path / "log", EngineSettings(threads=1, memory_gb=1), 0.05, 40)
    expected = preference(credits, 0.05, 40)
    assert (found.users, found.pages) == (40, 300)
    pages = [one for user in credits.values() for one in user]
    assert (found.for_challenger, found.for_champion) == (pages.count(1), pages.count(-1))
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.interval.low > 0
    contracts.write(pa.Table.from_pylist(rows[-1:], contracts.IMPRESSIONS), tmp_path / "none", contracts.IMPRESSIONS)
    with pytest.raises(UserError, match="interleave: true"):
        interleaved.read(tmp_path / "none", EngineSettings(threads=1, memory_gb=1), 0.05, 40)
    window = '{number: 3, start: "2018-01-01T00:00:00Z", end: "2019-01-01T00:00:00Z"}'
    (tmp_path / "params.yaml").write_text(f"cycle: {window}")
    asked = ["rollout", "interleaved", "--log", str(tmp_path / "log"), "--workspace", str(tmp_path), "--json"]
    told = json.loads(CliRunner().invoke(cli.app, asked).output)
    assert (told["users"], told["pages_for_the_champion"]) == (40, pages.count(-1))
    assert told["low"] < told["preference"] < told["high"]
