"""A simulated judge over a real socket: as good as it is set, with errors of the kind that is set."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from judging_world import llm, of_llms, settings_of
from pydantic import ValidationError

from serm import contracts
from serm.judging import annotate
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld
from serm.worlds.simulated_endpoint import SimulatedEndpoint
from serm.worlds.simulated_judge import SimulatedJudge, SimulatedJudgeSettings

KEY = ["query", "locale", "doc_id"]
ACCURACY = 0.85


@pytest.fixture(scope="module")
def world() -> EmojiWorld:
    return EmojiWorld(seed_queries=12)


def pool(world: EmojiWorld) -> pa.Table:
    """Pairs whose truth is known to the world only."""
    return pools.judged(world, world.live_queries(0, "frozen")[:24], 0, 8, "human", pools.LETTERS)


@pytest.fixture(scope="module")
def workspace(world: EmojiWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``annotate`` reads: seed judgments, and as mined pairs others, with a guessing champion."""
    path = tmp_path_factory.mktemp("simulated")
    contracts.write(world.documents(0), path / "validated" / "documents", contracts.DOCUMENTS)
    contracts.write(world.knowledge().slice(0, 50), path / "knowledge", contracts.KNOWLEDGE)
    contracts.write(pools.seed(world, pools.LETTERS), path / "judgments", contracts.JUDGMENTS)
    pairs = pool(world).select(KEY)
    chance = np.random.default_rng(3)
    mined = pairs.append_column("agents", pa.array([[]] * len(pairs), contracts.MINED_PAIRS.field("agents").type))
    for name in ("uncertainty", "disagreement", "engagement", "novelty", "priority"):
        mined = mined.append_column(name, pa.array(np.full(len(pairs), 0.5)))
    mined = mined.append_column("score", pa.array(chance.uniform(0, 3, len(pairs))))
    contracts.write(mined, path / "mined" / "pairs", contracts.MINED_PAIRS)
    estimates = contracts.CLICK_ESTIMATES.empty_table()
    contracts.write(estimates, path / "mined" / "click_estimates", contracts.CLICK_ESTIMATES)
    return path


@pytest.fixture(scope="module")
def judged(world: EmojiWorld, workspace: Path) -> tuple[dict[str, np.ndarray], np.ndarray, dict]:
    """Grades of the mined pairs by judge, their truth, and annotate.json; of one run of ``annotate`` with them all."""
    judges = {
        "random": SimulatedJudgeSettings(accuracy=ACCURACY, salt="a", failures=0.05),
        "another": SimulatedJudgeSettings(accuracy=ACCURACY, salt="b"),
        "shares half": SimulatedJudgeSettings(accuracy=ACCURACY, salt="c", shared=0.5),
        "shares half too": SimulatedJudgeSettings(accuracy=ACCURACY, salt="d", shared=0.5),
        "like the champion": SimulatedJudgeSettings(accuracy=ACCURACY, salt="e", like_champion=1.0),
    }
    mined, validated, known, knowledge = (workspace / n for n in ("mined", "validated", "judgments", "knowledge"))
    with ExitStack() as on:
        champion = mined / "pairs"
        urls = {
            n: on.enter_context(SimulatedEndpoint(SimulatedJudge(world, of, champion))).url for n, of in judges.items()
        }
        trust = {"gold_pairs": 20, "canaries": 4, "repeats": 0, "min_kappa": -1.0}
        llms = [llm(url, name, patience_seconds=30.0, attempts=8) for name, url in urls.items()]
        section = of_llms(workspace, *llms, trust=trust, agreement="unanimous", evidence_documents=0)
        annotate(mined, validated, known, knowledge, workspace / "out", settings_of(1, **section))
    votes = contracts.read(workspace / "out" / "votes", contracts.VOTES).to_pandas()
    wide = votes.pivot(index=KEY, columns="judge", values="grade")
    index = wide.index
    truth = world.truth.lookup(*(pa.array(index.get_level_values(name)) for name in KEY))
    grades = {name: wide[name].to_numpy() for name in judges}
    return grades, truth, json.loads((workspace / "out" / "annotate.json").read_text())


def test_it_is_as_right_as_it_is_set_through_the_client_and_annotate(judged) -> None:
    grades, truth, summary = judged
    spread = 4 * math.sqrt(ACCURACY * (1 - ACCURACY) / len(truth))
    for name, said in grades.items():
        assert not np.isnan(said).any(), name
        assert abs((said == truth).mean() - ACCURACY) < spread, name
        assert summary["llms"][name]["canaries"]["obeyed"] == []
    assert summary["llms"]["random"]["this_run"]["failed"] > 0


def test_narrow_questions_and_comparisons_make_a_poor_judge_a_better_one(world: EmojiWorld, workspace: Path) -> None:
    poor = SimulatedJudge(world, SimulatedJudgeSettings(accuracy=0.6, salt="poor", likes_first=0.3))
    names = ("title", "topic", "intent", "detail")
    questions = [{"name": name, "question": f"Does its {name} fit?", "scale": "grade"} for name in names]
    questions.append({"name": "wanted", "question": "Is it wanted?", "scale": "yes-no"})
    mined, validated, known, knowledge = (workspace / n for n in ("some", "validated", "many", "knowledge"))
    for name, kind in (("pairs", contracts.MINED_PAIRS), ("click_estimates", contracts.CLICK_ESTIMATES)):
        contracts.write(contracts.read(workspace / "mined" / name, kind).slice(0, 128), mined / name, kind)
    contracts.write(pools.seed(EmojiWorld(seed_queries=240), pools.LETTERS), known, contracts.JUDGMENTS)
    with SimulatedEndpoint(poor) as at:
        trust = {"gold_pairs": 120, "canaries": 0, "padded": 0, "repeats": 0, "min_kappa": -1.0}
        judges = (
            llm(at.url, "plain", concurrency=16),
            llm(at.url, "asked more", criteria=questions, concurrency=16),
            llm(at.url, "compares", comparisons=6, concurrency=16),
        )
        section = of_llms(workspace, *judges, trust=trust, agreement="unanimous", evidence_documents=0)
        annotate(mined, validated, known, knowledge, workspace / "narrow", settings_of(1, **section))
    votes = contracts.read(workspace / "narrow" / "votes", contracts.VOTES)
    truth = world.truth.lookup(*(votes[name].combine_chunks() for name in KEY))
    right = {
        name: (votes["grade"].to_numpy() == truth)[votes["judge"].to_numpy() == name]
        for name in ("plain", "asked more", "compares")
    }
    assert {len(of) for of in right.values()} == {128}
    assert right["compares"].mean() > right["plain"].mean() + 0.03
    compared = json.loads((workspace / "narrow" / "annotate.json").read_text())["llms"]["compares"]["comparisons"]
    assert compared["answered"] == compared["asked"] > 500
    assert compared["consistent"] == pytest.approx(0.7, abs=0.06)  # it likes the first document, as it is set
    assert compared["first"] == pytest.approx(0.65, abs=0.06)
    assert right["asked more"].mean() > right["plain"].mean() + 0.1
    said = votes.filter(pa.compute.equal(votes["judge"], "asked more"))["rationale"].to_pylist()
    assert all(all(f"{name} " in one for name in names) for one in said)


def test_two_judges_share_the_errors_that_they_are_set_to_share(judged) -> None:
    grades, truth, _ = judged
    wrong = {name: said != truth for name, said in grades.items()}
    apart, near = (np.mean(wrong[a] & wrong[b]) for a, b in (("random", "another"), ("shares half", "shares half too")))
    alone, together = (1 - ACCURACY) ** 2, 0.5 * (1 - ACCURACY) + 0.5 * (1 - ACCURACY) ** 2
    assert apart == pytest.approx(alone, abs=4 * math.sqrt(alone / len(truth)))
    assert near == pytest.approx(together, abs=4 * math.sqrt(together / len(truth)))


def test_a_judge_like_the_champion_errs_where_it_is_farthest_off_and_with_its_grade(judged, workspace: Path) -> None:
    grades, truth, _ = judged
    mined = contracts.read(workspace / "mined" / "pairs", contracts.MINED_PAIRS).to_pandas()
    scores = mined.set_index(KEY)["score"].sort_index().to_numpy()
    said = grades["like the champion"]
    wrong = said != truth
    off = np.abs(scores - truth)
    assert off[wrong].min() >= off[~wrong].max()
    assert (said[wrong] == np.rint(scores[wrong])).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"confusion": [[1, 0, 0, 0]] * 3}, "confusion"),
        ({"confusion": [[0.5, 0, 0, 0]] * 4}, "must sum to 1"),
        ({"shared": 0.6, "like_champion": 0.6}, "together at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SimulatedJudgeSettings(**wrong)


def test_a_confusion_matrix_is_met_row_by_row(world: EmojiWorld) -> None:
    matrix = [[0.6, 0.4, 0, 0], [0.1, 0.7, 0.2, 0], [0, 0.3, 0.5, 0.2], [0.05, 0.05, 0.1, 0.8]]
    judge = SimulatedJudge(world, SimulatedJudgeSettings(confusion=matrix))
    titles = dict(zip(*(world.documents(0)[name].to_pylist() for name in ("doc_id", "title")), strict=True))
    judged = pool(world)
    told = [
        (g, judge.opinion(q, loc, titles[d]))
        for q, loc, d, g in zip(*(judged[n].to_pylist() for n in (*KEY, "grade")), strict=True)
    ]
    for grade, row in enumerate(matrix):
        said = np.bincount([s for g, s in told if g == grade], minlength=4)
        assert (
            np.abs(said / said.sum() - row) < 4 * np.sqrt(np.array(row) * (1 - np.array(row)) / said.sum()) + 1e-9
        ).all()
    assert judge.opinion("no such query", "en", "grinning face") is None
    assert judge.opinion(judged["query"][0].as_py(), judged["locale"][0].as_py(), "no such document") is None
