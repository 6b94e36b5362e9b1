"""Which judges sit on a panel, what they were calibrated on, and that a judge that does not vote is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from judging_world import READ, build, settings_of

from serm import entry_points
from serm.errors import UserError
from serm.judging.batch import Batch
from serm.judging.judge import GRADES, Pairs, Votes
from serm.judging.seating import seat


def votes(count: int, grade: int = 2, rationales: int | None = None) -> Votes:
    return Votes(
        grades=np.full(count, grade),
        distribution=np.full((count, GRADES), 0.25),
        within_agreement=np.ones(count),
        rationales=["because"] * (count if rationales is None else rationales),
        paths=np.full((1, count), grade),
        silent=np.zeros(count, bool),
    )


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    world = build(tmp_path, monkeypatch)
    mined, validated, judgments, knowledge = (world / name for name in READ)
    return Batch.read(mined, validated, judgments, knowledge, settings_of(2))


def test_offline_judges_vote_on_every_mined_and_known_pair(batch: Batch) -> None:
    seated = seat(batch, None, settings_of(2))
    assert set(seated.panel.votes) == {"lexical", "encoder", "outside knowledge"}
    for name, of in seated.panel.votes.items():
        assert len(of.grades) == len(batch.pairs), name
        assert len(seated.panel.known_votes[name].grades) == len(batch.known), name
    assert seated.rows.tolist() == list(range(len(batch.known)))


def test_a_judge_of_another_package_learns_from_seed_judgments_that_are_not_held_out(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Pairs] = []

    class Fair:
        name = "fair"

        def __init__(self, pairs: Pairs, grades: object, settings: object) -> None:
            learned.append(pairs)

        def judge(self, pairs: Pairs) -> Votes:
            return votes(len(pairs))

    monkeypatch.setattr(entry_points, "load", lambda *_: {"fair": Fair})
    seated = seat(batch, None, settings_of(2, judges=("fair",), offline=False))
    assert set(seated.panel.votes) == {"fair"}
    assert len(learned[0]) == (~batch.unseen).sum() < len(batch.known)
    assert (seated.panel.votes["fair"].grades == 2).all()


@pytest.mark.parametrize("given", [{"count": 3}, {"grade": 4}, {"grade": -2}, {"rationales": 1}])
def test_a_judge_that_does_not_vote_as_it_must_is_named(
    given: dict[str, int], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        def __init__(self, *_: object) -> None:
            pass

        def judge(self, pairs: Pairs) -> Votes:
            return votes(**{"count": len(pairs)} | given)

    monkeypatch.setattr(entry_points, "load", lambda *_: {"wrong": Wrong})
    monkeypatch.setattr(entry_points, "versions", lambda group, names: {"wrong": "shop 1.0"})
    with pytest.raises(UserError, match=r"'wrong' of shop 1\.0 did not vote on 24 pairs"):
        seat(batch, None, settings_of(2, judges=("wrong",), offline=False))
