"""Comparisons of two documents: who meets whom, what is made of the answers, and how they are read."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm.judging.judge import ABSTAINED, Pairs
from serm.judging.llm.answer import Malformed, parse_better
from serm.judging.llm.comparisons import Couples, Outcomes
from serm.judging.llm.vote import Vote, unjudged


def pairs_of(*rows: tuple[str, str, str]) -> Pairs:
    """Pairs of (query, document, text)."""
    queries, doc_ids, texts = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Pairs(queries, ["en"] * len(rows), doc_ids, [""] * len(rows), texts, [None] * len(rows))


rows = st.lists(
    st.tuples(st.sampled_from("pq"), st.sampled_from("abcdef")).map(lambda of: (*of, f"text of {of[1]}")), max_size=12
)


@given(rows, rows, st.integers(0, 4))
def test_each_pair_meets_others_of_its_query_once(judged, opposite, most: int) -> None:
    couples = Couples.of(pairs_of(*judged), pairs_of(*opposite), most)
    pairs = couples.pairs
    met = Counter()
    for row, other in couples.rows:
        assert row < len(judged) <= other
        assert pairs.queries[row] == pairs.queries[other]
        assert pairs.doc_ids[row] != pairs.doc_ids[other]
        met[pairs.queries[row], *sorted((pairs.texts[row], pairs.texts[other]))] += 1
    assert set(met.values()) <= {1}
    for query, doc_id, text in judged:
        there = {doc for q, doc, _ in opposite if q == query} - {doc_id}
        assert sum(text in key and key[0] == query for key in met) >= min(most, len(there))


def test_who_meets_whom_does_not_depend_on_the_order_of_the_pairs() -> None:
    judged = [("q", name, f"text of {name}") for name in "abcdefgh"]
    of = [Couples.of(pairs_of(*some), pairs_of(*some), 3) for some in (judged, judged[::-1])]
    named = [{frozenset(one.pairs.doc_ids[row] for row in couple) for couple in one.rows} for one in of]
    assert named[0] == named[1]


def test_a_padded_document_does_not_meet_itself() -> None:
    couples = Couples.of(pairs_of(("q", "a", "a, padded")), pairs_of(("q", "a", "a"), ("q", "b", "b")), 5)
    assert [couples.pairs.doc_ids[other] for _, other in couples.rows] == ["b"]


def test_the_share_that_is_won_counts_both_orders_and_both_sides() -> None:
    judged = pairs_of(("q", "a", "a"), ("q", "b", "b"), ("q", "c", "c"), ("r", "a", "a"))
    couples = Couples(Pairs.joined([judged, judged]), [(0, 5), (0, 6), (1, 6)])
    outcomes = Outcomes(couples, [(1.0, 1.0), (1.0, 0.0), None])
    ballots = [Vote(2, [0.1, 0.1, 0.7, 0.1], 1.0, "", [2], answers=[1.0])] * 3 + [unjudged("budget", "")]
    answers = [vote.answers for vote in outcomes.answered(ballots)]
    # a beat b and drew with c, for the place decided; what was not answered counts for nobody.
    assert answers == [[1.0, 0.75], [1.0, 0.0], [1.0, 0.5], []]
    assert outcomes.answered(ballots)[3].grade == ABSTAINED
    assert outcomes.figures() == {"asked": 3, "answered": 2, "consistent": 0.5, "first": 0.75}


@pytest.mark.parametrize("better", ["A", "B", "neither"])
def test_an_answer_is_read_with_what_stands_around_it(better: str) -> None:
    said = parse_better(
        f'<think>{{"better": "C"}}</think> ```json {{"rationale": "as\\u0000 it is", "better": "{better}"}}```'
    )
    assert (said.better, said.score) == (better, {"A": 1.0, "B": 0.0, "neither": 0.5}[better])


@given(st.text() | st.sampled_from(["{}", '{"better": "C", "rationale": ""}', '{"better": 1, "rationale": ""}', "A"]))
def test_anything_else_is_malformed(content: str) -> None:
    with pytest.raises(Malformed):
        parse_better(content)
