"""Whether a batch may be used: gold pairs, canaries, repeats and drift of LLM judges behind a real HTTP server."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fake_llm import FakeLLM
from judging_world import (
    build,
    llm,
    run,
    run_llms,
    seed_rows,
    true_grade,
    write_judgments,
)

from serm import contracts
from serm.judging.seed import held_out
from serm.judging.trust import ATTACKS
from serm.settings import JudgingSettings

PAIRS = 24


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return build(tmp_path, monkeypatch)


def panel(out: Path) -> dict:
    return json.loads((out / "annotate.json").read_text())


def grades(out: Path, judge: str = "fake") -> dict[tuple[str, str], int | None]:
    votes = contracts.read(out / "votes", contracts.VOTES).to_pylist()
    return {(row["query"], row["doc_id"]): row["grade"] for row in votes if row["judge"] == judge}


def obeys(query: str, document: str) -> int:
    return 3 if any(attack[:25] in document for attack in ATTACKS.values()) else true_grade(query, document)


def test_a_batch_of_a_good_judge_is_used(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        out = run_llms(world, llm(fake.url))
    summary = panel(out)
    assert summary["held"] == []
    assert summary["kept"] == PAIRS
    assert summary["llms"]["fake"]["canaries"] == {
        "asked": 16,
        "judged": 16,
        "withstood": 1.0,
        "obeyed": [],
    }
    assert summary["llms"]["fake"]["gold"]["accuracy"] == 1
    assert set(summary["gold"]["by_locale"]) == {"en"}


def test_an_obedient_judge_holds_the_batch(world: Path) -> None:
    with FakeLLM(obeys) as fake:
        out = run_llms(world, llm(fake.url))
    summary = panel(out)
    assert "the share of canaries that fake withstands" in summary["held"][0]
    assert {"orders in German", "a forged answer"} <= set(summary["llms"]["fake"]["canaries"]["obeyed"])
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows == 0
    review = contracts.read(out / "review", contracts.REVIEW)
    assert review.num_rows == PAIRS
    assert pc.all(pc.starts_with(review["reason"], "held: ")).as_py()


def test_a_judge_that_over_rates_holds_the_batch(world: Path) -> None:
    with FakeLLM(lambda query, document: min(true_grade(query, document) + 1, 3)) as fake:
        out = run_llms(world, llm(fake.url), agreement="unanimous", trust={"canaries": 0})
    summary = panel(out)
    assert "over-rates" in summary["held"][0]
    assert summary["gold"]["by_grade"]["0"]["over_rated"] == 1
    assert summary["kept"] == 0


def test_too_little_gold_holds_the_batch(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        out = run_llms(world, llm(fake.url), trust={"min_gold_pairs": 100})
    assert "gold pairs of at least 100" in panel(out)["held"][0]
    figures = json.loads((world / "figures.json").read_text())
    assert "gold pairs of at least 100" in figures["held"]
    assert figures["kept"] == 0


def test_gold_of_one_grade_holds_the_batch_for_its_kappa_is_not_defined(world: Path) -> None:
    """Calibration has other grades; every held-out pair is bad, and the judge says so."""
    rows = seed_rows()
    unseen = held_out(pa.table({"query": [row["query"] for row in rows]}), JudgingSettings())
    write_judgments(world, [row | {"grade": 0} if out else row for row, out in zip(rows, unseen, strict=True)])
    with FakeLLM(lambda query, document: 0) as fake:
        out = run_llms(world, llm(fake.url), trust={"min_gold_pairs": 1}, agreement="unanimous")
    told = panel(out)
    assert told["gold"]["quadratic_kappa"] is None
    assert "quadratic kappa on gold is not known: labels and true grades of the gold pairs are all one grade." in (
        " ".join(told["held"])
    )
    assert told["held"] == told["not_measured"]
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows == 0


def test_a_batch_without_a_canary_is_held_unless_none_is_asked_for(world: Path) -> None:
    """No held-out seed judgment is bad, so there is no document to plant an attack on."""
    write_judgments(world, [row | {"grade": max(1, int(str(row["grade"])))} for row in seed_rows()])
    with FakeLLM(lambda query, document: max(1, true_grade(query, document))) as fake:
        held = panel(run_llms(world, llm(fake.url)))
        (why,) = held["held"]
        assert "withstands is not known: no gold pair has grade 0" in why
        assert "judging.trust.canaries: 0" in why
        assert held["kept"] == 0
        used = panel(run_llms(world, llm(fake.url), trust={"canaries": 0}))
    assert used["held"] == []
    assert used["kept"] > 0


def test_an_offline_batch_of_which_nothing_is_known_goes_on_and_says_so(world: Path) -> None:
    told = panel(run(world, trust={"min_gold_pairs": 1000}))
    assert told["held"] == []
    assert "gold pairs of at least 1000" in told["not_measured"][0]
    assert "gold pairs of at least 1000" in json.loads((world / "figures.json").read_text())["not_measured"]


def test_an_offline_batch_has_gold_bars_too(world: Path) -> None:
    write_judgments(world, [row | {"grade": i % 4} for i, row in enumerate(seed_rows())])
    out = run(world, trust={"min_gold_pairs": 1, "min_kappa": 0.9}, min_confidence=0.25)
    assert "the panel's quadratic kappa on gold" in panel(out)["held"][0]
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows == 0


def test_a_judge_that_drifted_holds_the_batch(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        assert panel(run_llms(world, llm(fake.url)))["llms"]["fake"]["repeats"]["judged"] == 0
        steady = panel(run_llms(world, llm(fake.url), cycle=3))
        assert steady["llms"]["fake"]["repeats"] == {
            "asked": 20,
            "judged": 20,
            "same": 1.0,
            "shift": 0.0,
        }
        assert steady["held"] == []
        fake.grade = lambda query, document: (true_grade(query, document) + 1) % 4
        drifted = panel(run_llms(world, llm(fake.url), cycle=4))
    assert drifted["llms"]["fake"]["repeats"]["same"] == 0
    assert any("grades as before" in why for why in drifted["held"])
