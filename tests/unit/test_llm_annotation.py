"""LLM judges on a batch, against a real HTTP server that fails as real ones do."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_llm import FAULTS, FakeLLM, seeded, shared_words
from judging_world import (
    NAMES,
    build,
    content,
    foresee,
    llm,
    run,
    run_llms,
    true_grade,
    write_mined,
)

from serm import contracts
from serm.errors import UserError
from serm.judging.llm import limits
from serm.settings import JudgingSettings

PAIRS = 24
KILLS = 5
FORK = multiprocessing.get_context("forkserver")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return build(tmp_path, monkeypatch)


def panel(out: Path) -> dict:
    return json.loads((out / "annotate.json").read_text())


def grades(out: Path, judge: str = "fake") -> dict[tuple[str, str], int | None]:
    votes = contracts.read(out / "votes", contracts.VOTES).to_pylist()
    return {(row["query"], row["doc_id"]): row["grade"] for row in votes if row["judge"] == judge}


def truth() -> dict[tuple[str, str], int]:
    return {(q, f"en-{n}"): true_grade(q, name) for q in ("fast", "green", "pet") for n, name in enumerate(NAMES)}


# Votes


def test_a_judge_grades_with_evidence_and_stops_when_decided(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        out = run_llms(world, llm(fake.url, paths=5, temperature=0.5))
    assert grades(out) == truth()
    votes = contracts.read(out / "votes", contracts.VOTES).to_pylist()
    assert all(row["distribution"][row["grade"]] == pytest.approx(0.7) for row in votes)
    assert all(row["rationale"].endswith(f"for {row['query']} [evidence 1]") for row in votes)
    shown = {(p["source"], p["text"]) for row in votes if row["doc_id"] == "en-4" for p in row["evidence"]}
    assert {("knowledge", "green"), ("catalogue", "fast car")} <= shown
    assert ("catalogue", "green car") not in shown
    figures = panel(out)["llms"]["fake"]
    questions = len(fake.log) // 3
    assert len(fake.log) == figures["this_run"]["calls"] == 3 * questions
    assert figures["this_run"]["saved"] == 2 * questions
    assert figures["cycle"]["cost"] == pytest.approx(len(fake.log) * (200 * 1 + 40 * 4) / 1e6)


def test_without_log_probabilities_the_stated_confidence_counts(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        out = run_llms(world, llm(fake.url, logprobs=False))
    votes = contracts.read(out / "votes", contracts.VOTES).to_pylist()
    assert {max(row["distribution"]) for row in votes} == {0.9}


def test_no_gold_query_is_in_any_prompt_and_examples_are(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        run_llms(world, llm(fake.url))
    systems = {request["messages"][0]["content"] for _, _, request in fake.log}
    asked = {r["messages"][1]["content"].split("<query>")[1].split("</query>")[0] for _, _, r in fake.log}
    (system,) = systems
    examples = {part.split("</query>")[0] for part in system.split("Grades that people gave")[1].split("<query>")[1:]}
    assert 1 <= len(examples) <= 4
    assert not examples & asked


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_no_grade(world: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the requests fail once: they are sent again, or repaired where the answer was malformed."""
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)
    with FakeLLM(true_grade, fault=lambda key, attempt: fault if even(key) and not attempt else None) as fake:
        out = run_llms(world, llm(fake.url, patience_seconds=20.0))
    counts, graded = panel(out)["llms"]["fake"]["this_run"], grades(out)
    if fault in ("truncated", "wrong label", "no label"):
        repairs = sum(len(request["messages"]) == 4 for _, _, request in fake.log)
        assert 0 < counts["repaired"] == repairs - counts.get("malformed", 0)
        assert all(grade in (None, truth()[pair]) for pair, grade in graded.items())
    else:
        assert graded == truth()
        assert fault == "slow" or counts["retries"] > 0


def even(key: str) -> bool:
    return int(key[-1], 16) % 2 == 0


def test_what_stays_malformed_abstains_and_goes_to_review(world: Path) -> None:
    with FakeLLM(true_grade, fault=lambda key, attempt: "wrong label") as fake:
        out = run_llms(world, llm(fake.url))
    assert set(grades(out).values()) == {None}
    assert contracts.read(out / "review", contracts.REVIEW).num_rows == PAIRS
    assert max(fake.seen.values()) == 1
    assert panel(out)["llms"]["fake"]["this_run"]["malformed"] * 2 == len(fake.log)


def test_all_faults_at_once_end_in_the_same_labels(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)
    kinds = tuple(f for f in FAULTS if f not in ("truncated", "wrong label", "no label"))
    with FakeLLM(true_grade) as fake:
        before = grades(run_llms(world, llm(fake.url, temperature=0.5)))
    with FakeLLM(true_grade, fault=seeded(kinds, 0.3)) as fake:
        judge = llm(fake.url, temperature=0.5, attempts=20, patience_seconds=10.0)
        assert grades(run_llms(world, judge, ledger=world / "other.sqlite")) == before
    assert sum(fake.seen.values()) > len(fake.seen)


def test_a_dead_endpoint_stalls_no_other_judge(world: Path) -> None:
    with FakeLLM(true_grade) as fake, FakeLLM(fault=lambda key, attempt: "503") as dead:
        judges = [llm(fake.url, f"alive {n}") for n in range(2)] + [llm(dead.url, "dead", concurrency=4)]
        out = run_llms(world, *judges, agreement="dawid-skene")
    assert grades(out, "alive 0") == truth()
    assert set(grades(out, "dead").values()) == {None}
    counts = panel(out)["llms"]["dead"]["this_run"]
    assert counts["unjudged_endpoint"] > PAIRS
    assert len(dead.log) < 40
    votes = [row for row in contracts.read(out / "votes", contracts.VOTES).to_pylist() if row["judge"] == "dead"]
    assert all("does not answer" in r["rationale"] or "attempts failed" in r["rationale"] for r in votes)


@pytest.mark.parametrize("agreement", ["posterior", "unanimous", "dawid-skene", "mace"])
def test_a_panel_that_is_dead_labels_nothing_and_loses_nothing(world: Path, agreement: str) -> None:
    with FakeLLM(fault=lambda key, attempt: "503") as dead:
        out = run_llms(world, llm(dead.url), agreement=agreement)
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows == 0
    assert contracts.read(out / "review", contracts.REVIEW).num_rows == PAIRS


def test_a_wrong_key_is_the_users_mistake(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeLLM(fault=lambda key, attempt: "401") as fake:
        with pytest.raises(UserError, match="judge fake: SERM_TEST_KEY is not set"):
            run_llms(world, llm(fake.url, api_key_env="SERM_TEST_KEY"))
        monkeypatch.setenv("SERM_TEST_KEY", "a-secret")
        with pytest.raises(UserError, match="answers 401") as error:
            run_llms(world, llm(fake.url, api_key_env="SERM_TEST_KEY"))
    assert "a-secret" not in str(error.value)
    assert all(b"a-secret" not in file.read_bytes() for file in world.glob("ledger*"))


def test_limits_hold_at_the_endpoint(world: Path) -> None:
    with FakeLLM(true_grade, latency=0.02) as fake:
        run_llms(world, llm(fake.url, concurrency=3))
    assert fake.most_in_flight == 3


# The ledger


def test_a_second_run_asks_nothing_and_gives_the_same_bytes(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        before = content(run_llms(world, llm(fake.url)))
        asked = len(fake.log)
        after = content(run_llms(world, llm(fake.url)))
        assert len(fake.log) == asked
        run_llms(world, llm(fake.url, model="fake-2"))
        assert len(fake.log) == 2 * asked
    labels = ("judgments/part-0.parquet", "review/part-0.parquet", "votes/part-0.parquet")
    assert all(before[name] == after[name] for name in labels)


def test_kill_9_at_five_moments_repeats_no_finished_call(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    write_mined(world, [(f"{word} {n}", f"en-{d}") for n in range(10) for word in ("cat", "dog") for d in range(8)])
    FORK.set_forkserver_preload(["judging_world"])
    settings = {"concurrency": 4, "paths": 3, "temperature": 0.5}
    chance = random.Random(7)
    with FakeLLM(shared_words) as fake:
        undisturbed = content(run_llms(world, llm(fake.url, **settings), ledger=world / "other.sqlite"))
    with FakeLLM(shared_words, latency=0.012) as fake:
        kills = 0
        while kills < KILLS:
            finished, asked = answered(world / "ledger.sqlite"), len(fake.log)
            process = FORK.Process(target=run_llms, args=(world, llm(fake.url, **settings)))
            process.start()
            while len(fake.log) == asked and process.is_alive():
                time.sleep(0.005)
            process.join(chance.uniform(0.0, 0.15))
            assert process.is_alive(), "the batch was done before it was killed so often: make it longer"
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            assert not finished & {key for _, key, _ in fake.log[asked:]}
        finished, asked = answered(world / "ledger.sqlite"), len(fake.log)
        resumed = content(run_llms(world, llm(fake.url, **settings)))
        assert not finished & {key for _, key, _ in fake.log[asked:]}
    names = ("judgments/part-0.parquet", "review/part-0.parquet", "votes/part-0.parquet")
    assert all(resumed[name] == undisturbed[name] for name in names)
    assert 0 < sum(fake.seen.values()) - len(fake.seen) <= KILLS * 8
    with sqlite3.connect(world / "ledger.sqlite") as ledger:
        statuses = Counter(dict(ledger.execute("SELECT status, count(*) FROM calls GROUP BY status")))
    assert statuses["answered"] == len(fake.seen)


def answered(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with sqlite3.connect(path) as ledger:
        return {key for (key,) in ledger.execute("SELECT key FROM answers")}


# Money


@pytest.mark.parametrize("cap", ["money", "calls"])
def test_no_cap_is_overrun_and_the_rest_goes_to_review(world: Path, cap: str) -> None:
    caps = {"money": 0.12, "calls": 90}
    with FakeLLM(true_grade, latency=0.005) as fake:
        judges = [llm(fake.url, name, concurrency=16) for name in ("a", "b", "c")]
        out = run_llms(world, *judges, budget={"money": None, cap: caps[cap]})
        again = run_llms(world, *judges, budget={"money": None, cap: caps[cap]})
    spent = len(fake.log) * (200 * 1 + 40 * 4) / 1e6
    assert 0 < {"money": spent, "calls": len(fake.log)}[cap] <= caps[cap]
    summary = panel(out)
    assert summary["unpaid"] == json.loads((world / "figures.json").read_text())["unpaid"] > 0
    review = contracts.read(again / "review", contracts.REVIEW).to_pylist()
    assert any(row["reason"].startswith("budget: ") for row in review)
    assert contracts.read(out / "judgments", contracts.JUDGMENTS).num_rows + len(review) == PAIRS


def test_time_is_a_cap_too(world: Path) -> None:
    with FakeLLM(true_grade, latency=0.05) as fake:
        start = time.monotonic()
        out = run_llms(world, llm(fake.url, concurrency=1), budget={"seconds": 0.5})
    assert time.monotonic() - start < 10
    assert panel(out)["unpaid"] > 0


def test_a_dry_run_foresees_the_calls_and_makes_none(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        judges = [llm(fake.url, "cheap"), llm(fake.url, "dear", paths=5, temperature=0.5, price_per_million_input=9.0)]
        before = foresee(world, *judges)
        assert not fake.log
        run_llms(world, judges[0])
        asked = len(fake.log)
        after = foresee(world, *judges)
    cheap, dear = before["cheap"], before["dear"]
    assert cheap["calls_fewest"] == cheap["calls_most"] == cheap["questions"] == asked
    assert (dear["calls_fewest"], dear["calls_most"]) == (3 * asked, 5 * asked)
    assert cheap["output_tokens_most"] == asked * 150
    assert cheap["cost_most"] == pytest.approx((cheap["input_tokens_most"] + 4 * asked * 150) / 1e6, abs=1e-4)
    assert dear["cost_most"] > 9 * 5 * cheap["input_tokens_most"] / 1e6
    assert (after["cheap"]["calls_most"], after["cheap"]["cached"]) == (0, asked)
    assert after["dear"] == dear


def test_offline_and_llm_judges_sit_on_one_panel(world: Path) -> None:
    with FakeLLM(true_grade) as fake:
        out = run_llms(world, llm(fake.url), offline=True)
    summary = panel(out)
    assert set(summary["judges"]) == {"lexical", "encoder", "outside knowledge", "fake"}
    assert summary["judges"]["fake"]["keep_rate"] == 1
    assert summary["panel_version"] != panel(run(world))["panel_version"]


@pytest.mark.parametrize(
    ("judges", "problem"),
    [
        ([{"paths": 3}], "3 paths at temperature 0 are one path"),
        ([{}, {}], "judge 'fake' stands there twice"),
        ([{"name": "encoder"}], "judge 'encoder' stands there twice"),
    ],
)
def test_a_senseless_panel_is_named(judges: list[dict[str, object]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        JudgingSettings.model_validate({"llms": [{**llm("http://x/v1"), **judge} for judge in judges]})
