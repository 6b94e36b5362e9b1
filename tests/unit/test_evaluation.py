"""NDCG, shared tokens, slices, the gate, and the whole step over given scores."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from math import log2, nan
from pathlib import Path
from types import SimpleNamespace

import ir_measures
import numpy as np
import pyarrow as pa
import pytest

from serm import contracts, relevance
from serm.errors import UserError
from serm.evaluation import evaluate
from serm.evaluation.compare import per_query
from serm.evaluation.gate import Comparison, decide
from serm.evaluation.measures import ndcg
from serm.evaluation.overlap import share_token, tokens
from serm.settings import CycleSettings, EvaluationSettings, Settings


def _ndcg(grades: list[int], scores: list[float], cutoffs: list[int], seed: int = 0) -> list[float]:
    zeros = np.zeros(len(grades), dtype=np.int64)
    return ndcg(zeros, np.array(grades), np.array(scores), cutoffs, seed)[0].tolist()


def test_ndcg_by_hand() -> None:
    # Ranked 1, 3, 0, 2: linear gain, discount log2(rank + 1).
    found = _ndcg([3, 2, 1, 0], [0.8, 0.1, 0.9, 0.5], [1, 2, 10])
    ideal = 3 + 2 / log2(3) + 1 / 2
    assert found == pytest.approx(
        [1 / 3, (1 + 3 / log2(3)) / (3 + 2 / log2(3)), (1 + 3 / log2(3) + 2 / log2(5)) / ideal]
    )


def test_ndcg_is_that_of_ir_measures() -> None:
    rng = np.random.default_rng(1)
    queries = np.repeat(np.arange(40), 12)
    grades, scores = rng.integers(0, 4, queries.size), rng.random(queries.size)
    found = ndcg(queries, grades, scores, [5], seed=2)[:, 0]
    rows = [str(row) for row in range(queries.size)]
    qrels = [ir_measures.Qrel(str(q), d, int(g)) for q, d, g in zip(queries, rows, grades, strict=True)]
    run = [ir_measures.ScoredDoc(str(q), d, float(s)) for q, d, s in zip(queries, rows, scores, strict=True)]
    peer = {metric.query_id: metric.value for metric in ir_measures.iter_calc([ir_measures.nDCG @ 5], qrels, run)}
    assert found == pytest.approx([peer[str(query)] for query in range(40)])


def test_ties_are_shuffled() -> None:
    grades = [3] * 5 + [0] * 45  # the file has the best documents first, as judged pools often do
    over_seeds = [_ndcg(grades, [1.0] * 50, [5], seed)[0] for seed in range(200)]
    assert np.mean(over_seeds) == pytest.approx(0.1, abs=0.03)  # what a random order has
    assert _ndcg(grades, [1.0] * 50, [5], 7) == _ndcg(grades, [1.0] * 50, [5], 7)


def test_scores_closer_than_32_bits_are_no_tie() -> None:
    scores = [1 + 1e-12, 1.0]
    assert [_ndcg([3, 0], scores, [1], seed) for seed in range(20)] == [[1.0]] * 20


@pytest.mark.parametrize(
    ("query", "document", "locale", "shared"),
    [
        ("Cat", "grinning CAT face", "en", True),
        ("cat", "category", "en", False),
        ("straße", "STRASSE", "de", True),
        ("हिंदी", "हिंसा", "hi", False),  # the same letters before the vowel signs
        ("หมา", "หน้าหมายิ้ม", "th", True),
        ("猫", "笑う猫の顔", "ja", True),
        ("猫の顔", "猫", "ja", True),
        ("犬", "笑う猫の顔", "ja", False),
        ("고양이", "고양이가 웃는다", "ko", True),
        ("笑", "微笑的脸", "zh-Hant", True),
        ("con mèo", "mặt mèo", "vi", True),
        ("!", "!", "en", False),
    ],
)
def test_shared_tokens(query: str, document: str, locale: str, shared: bool) -> None:
    assert share_token(query, document, locale) is shared


def test_marks_belong_to_words() -> None:
    assert tokens("हिन्दी भाषा") == {"हिन्दी", "भाषा"}
    assert tokens("sun-glasses, Ⅻ") == {"sun", "glasses", "xii"}


GOOD = Comparison(
    n=500, champion=0.70, challenger=0.72, difference=0.02, low=0.01, high=0.03, p=0.001,
    champion_low=0.68, champion_high=0.72, challenger_low=0.70, challenger_high=0.74,
)  # fmt: skip
EVEN = replace(GOOD, challenger=0.70, difference=0.0, low=-0.005, high=0.005, p=0.9)
BAD = replace(GOOD, challenger=0.68, difference=-0.02, low=-0.03, high=-0.015, p=0.001)
UNSURE = replace(GOOD, difference=0.02, low=-0.02, high=0.06, p=0.3)


@pytest.mark.parametrize(
    ("rolling", "frozen", "result"),
    [
        (GOOD, GOOD, "passed"),
        (GOOD, EVEN, "passed"),
        (GOOD, UNSURE, "inconclusive"),
        (GOOD, BAD, "failed"),
        (EVEN, EVEN, "inconclusive"),
        (UNSURE, GOOD, "inconclusive"),
        (BAD, GOOD, "failed"),
        (BAD, None, "failed"),
        (None, GOOD, "inconclusive"),
        (GOOD, None, "inconclusive"),
        (None, None, "inconclusive"),
        (replace(GOOD, n=49), GOOD, "inconclusive"),
        (GOOD, replace(EVEN, n=1), "inconclusive"),
        (replace(GOOD, p=nan), GOOD, "inconclusive"),
        (GOOD, replace(GOOD, low=nan), "inconclusive"),
        (replace(GOOD, p=0.05), GOOD, "inconclusive"),
    ],
)
def test_gate(rolling: Comparison | None, frozen: Comparison | None, result: str) -> None:
    verdict = decide(rolling, frozen, EvaluationSettings())
    assert verdict.result == result
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["Rolling set", "Frozen set"]


def test_gate_margins_and_reasons() -> None:
    strict = EvaluationSettings(min_gain=0.02, max_frozen_loss=0.004)
    verdict = decide(GOOD, EVEN, strict)
    assert verdict.result == "inconclusive"
    assert verdict.reasons == (
        "Rolling set: NDCG@10 0.7000 -> 0.7200 over 500 queries (+0.0200, 95% interval +0.0100 to +0.0300), "
        "p = 0.0010: better, but not by more than min_gain 0.02.",
        "Frozen set: NDCG@10 0.7000 -> 0.7000 over 500 queries (+0.0000, 95% interval -0.0050 to +0.0050): "
        "a loss above max_frozen_loss 0.004 cannot be ruled out.",
    )


# --- the step, with models that score by a rule -------------------------------------------------------------------


class _Model:
    """Scores a document by the digit in its text, blurred for the champion; counts what it is asked."""

    def __init__(self, version: str, noise: float) -> None:
        self.version, self.noise, self.asked = version, noise, 0

    def score(self, queries: list[str], documents: list[str]) -> SimpleNamespace:
        assert len(set(zip(queries, documents, strict=True))) == len(queries)
        self.asked += len(queries)
        grade = np.array([float(text.split()[-1]) for text in documents])
        return SimpleNamespace(expected=grade + np.random.default_rng(3).normal(0, self.noise, len(grade)))


def _write(root: Path, queries: int = 80) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    documents = [(f"{loc}-{g}", loc, f"title {g}") for loc in ("de", "ja") for g in range(4)]
    contracts.write(
        pa.table(
            {
                "doc_id": [d[0] for d in documents],
                "locale": [d[1] for d in documents],
                "title": [d[2] for d in documents],
                "body": [""] * len(documents),
                "published_at": pa.array([now] * len(documents), pa.timestamp("us", tz="UTC")),
                "attributes": pa.array([[]] * len(documents), pa.map_(pa.string(), pa.string())),
            }
        ),
        root / "validated" / "documents",
        contracts.DOCUMENTS,
    )
    for name, word in (("frozen", "title"), ("rolling", "other")):
        rows = [
            (f"{word} q{q}", loc, f"{loc}-{g}", g) for q in range(queries) for loc in ("de", "ja") for g in range(4)
        ]
        _judge(root / "tests" / name, rows)


def _judge(path: Path, rows: list[tuple[str, str, str, int]]) -> None:
    table = pa.Table.from_pylist(
        [
            {"query": q, "locale": loc, "doc_id": d, "grade": g, "source": "seed", "cycle": 0}
            | dict.fromkeys(("rationale", "panel_version", "agreement"))
            for q, loc, d, g in rows
        ],
        schema=contracts.JUDGMENTS,
    )
    contracts.write(table, path, contracts.JUDGMENTS)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, _Model], Settings]:
    _write(tmp_path)
    models = {"champion": _Model("aaa", 2.0), "model": _Model("bbb", 0.5)}
    monkeypatch.setattr(relevance, "load", lambda path: models[path.name])
    settings = Settings(
        cycle=CycleSettings(start=datetime(2020, 1, 1, tzinfo=UTC), end=datetime(2021, 1, 1, tzinfo=UTC)),
        evaluation=EvaluationSettings(families={"Germanic": ("de", "nl")}, permutations=500),
    )
    return tmp_path, models, settings


def _run(root: Path, settings: Settings, out: str = "out") -> dict[str, object]:
    return evaluate(root / "champion", root / "trained", root / "tests", root / "validated", root / out, settings)


def test_step(world: tuple[Path, dict[str, _Model], Settings]) -> None:
    root, models, settings = world
    figures = _run(root, settings)
    assert figures["gate"] == "passed"
    assert models["champion"].asked == models["model"].asked == 2 * 80 * 4  # both locales share their texts

    found = json.loads((root / "out" / "evaluation.json").read_text())
    assert found["versions"] == {"champion": "aaa", "challenger": "bbb"}
    assert found["pairs"] == {"frozen": 640, "rolling": 640}
    assert found["gate"]["result"] == "passed"
    slices = found["sets"]["rolling"]["no shared token"]
    assert {name: one["n"] for name, one in slices.items()} == {
        "all": 160,
        "Germanic": 80,
        "other": 80,
        "de": 80,
        "ja": 80,
    }
    assert set(slices["all"]["measures"]) == {"NDCG@1", "NDCG@5", "NDCG@10"}
    measure = slices["all"]["measures"]["NDCG@10"]
    assert measure["difference"] == pytest.approx(measure["challenger"] - measure["champion"], abs=1e-5)
    assert measure["low"] < measure["difference"] < measure["high"]
    assert found["sets"]["frozen"]["no shared token"] == {}  # every frozen query shares the word "title"

    rows = contracts.read(root / "out" / "per_query", contracts.PER_QUERY).to_pylist()
    mean = np.mean(
        [
            row["challenger"]
            for row in rows
            if (row["set"], row["pairs"], row["measure"], row["locale"]) == ("rolling", "all", "NDCG@5", "ja")
        ]
    )
    assert found["sets"]["rolling"]["all"]["ja"]["measures"]["NDCG@5"]["challenger"] == pytest.approx(mean, abs=1e-5)


def test_the_same_word_in_two_languages_is_two_queries() -> None:
    pool = pa.table(
        {
            "locale": ["de"] * 2 + ["fr"] * 2,
            "query": ["gift"] * 4,  # poison in one of them
            "doc_id": ["1", "2", "3", "4"],
            "grade": pa.array([3, 0, 3, 0], pa.int8()),
            "champion": [1.0, 0.0, 0.0, 1.0],
            "challenger": [0.0, 1.0, 1.0, 0.0],
        }
    )
    rows = per_query(pool, "rolling", "all", EvaluationSettings(cutoffs=(1,), gate_cutoff=1)).to_pylist()
    assert [(row["locale"], row["champion"], row["challenger"]) for row in rows] == [("de", 1, 0), ("fr", 0, 1)]


def test_step_gives_the_same_bytes_again(world: tuple[Path, dict[str, _Model], Settings]) -> None:
    root, _, settings = world
    _run(root, settings)
    _run(root, settings, "again")
    for file in ("evaluation.json", "per_query/part-0.parquet"):
        assert (root / "out" / file).read_bytes() == (root / "again" / file).read_bytes()


def test_empty_set_cannot_pass(world: tuple[Path, dict[str, _Model], Settings]) -> None:
    root, _, settings = world
    _judge(root / "tests" / "frozen", [])
    assert _run(root, settings)["gate"] == "inconclusive"
    assert "Frozen set: no data." in json.loads((root / "out" / "evaluation.json").read_text())["gate"]["reasons"]


def test_pools_of_one_grade_are_left_out(world: tuple[Path, dict[str, _Model], Settings]) -> None:
    root, _, settings = world
    _judge(
        root / "tests" / "rolling", [(f"q{q}", "de", f"de-{g}", int(q > 0) * g) for q in range(60) for g in range(4)]
    )
    assert _run(root, settings)["rolling_queries"] == 59


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("q", "de", "de-9", 1)], "1 test documents are not in the catalogue, such as doc_id 'de-9'"),
        ([("q", "de", "de-1", 1), ("q", "de", "de-1", 2)], "1 pairs are judged twice, such as query 'q' (de)"),
    ],
)
def test_bad_pools(
    world: tuple[Path, dict[str, _Model], Settings], rows: list[tuple[str, str, str, int]], message: str
) -> None:
    root, _, settings = world
    _judge(root / "tests" / "rolling", rows)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        _run(root, settings)


def test_scores_that_are_not_numbers(world: tuple[Path, dict[str, _Model], Settings]) -> None:
    root, models, settings = world
    models["model"].noise = nan
    with pytest.raises(UserError, match="challenger gives scores that are not finite"):
        _run(root, settings)
    assert not (root / "out").exists()
