"""Slices of the test sets, both models on them, and the biggest wins and losses, over given scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import nan
from pathlib import Path

import evaluation_world as world
import numpy as np
import pyarrow as pa
import pytest

from serm import contracts
from serm.errors import UserError
from serm.evaluation import examples, pools, power
from serm.evaluation.compare import KINDS, numbered, per_query
from serm.evaluation.controls import column
from serm.evaluation.gate import SLICED, Trust
from serm.evaluation.measured import Measured, measured
from serm.pairs import test_sets
from serm.release.evaluate import read_trust, scored
from serm.relevance import Scores
from serm.serving import trial
from serm.settings import EvaluationSettings, Settings


class _Model:
    """Scores a document by the digit in its text, blurred by noise."""

    version = "noisy"

    def __init__(self, noise: float) -> None:
        self.noise, self.asked = noise, 0

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        assert len(set(zip(queries, documents, strict=True))) == len(queries)
        self.asked += len(queries)
        grade = np.array([float(text.split()[-1]) for text in documents])
        expected = grade + np.random.default_rng(round(10 * self.noise) if self.noise == self.noise else 0).normal(
            0, self.noise, len(grade)
        )
        return Scores(expected=expected, distribution=np.eye(4)[grade.astype(int)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    world.write(tmp_path)
    return tmp_path


def _pool(root: Path, settings: Settings, noises: tuple[float, float] = (2.0, 0.5)) -> pa.Table:
    pool = pools.read_pools(root / "tests", root / "validated", root / "reference", settings).pairs
    return scored(pool, {name: _Model(noise) for name, noise in zip(examples.MODELS, noises, strict=True)})


def _measured(pool: pa.Table, name: str, settings: Settings, documents: str = "served") -> Measured:
    return measured(pools.rows_of(pool, name, documents), (name, documents), settings.evaluation)


def test_each_slice_has_its_queries(root: Path) -> None:
    settings = world.settings()
    pool = _pool(root, settings)
    of_set = {name: _measured(pool, name, settings) for name in test_sets.SETS}
    n = {
        name: {part: by_measure["NDCG@10"].n for part, by_measure in one.compared["all"].items()}
        for name, one in of_set.items()
    }
    common = {"all": 160, "family:Germanic": 80, "family:other": 80, "locale:de": 80, "locale:ja": 80}
    common |= {"document_age:new": 80, "document_age:old": 80}
    assert n["rolling"] == common | {"traffic:unseen": 160, "query_age:old": 1, "query_age:new": 159}
    assert n["frozen"] == common | {"traffic:head": 1, "traffic:unseen": 159, "query_age:old": 1, "query_age:new": 159}
    assert of_set["frozen"].compared["no shared token"] == {}  # every frozen query shares the word "title"
    assert of_set["frozen"].compared["shared token"]["all"]["NDCG@10"].n == 160
    assert of_set["rolling"].compared["no shared token"]["all"]["NDCG@10"].n == 160


def test_traffic_is_cut_by_thirds_of_the_searches(tmp_path: Path) -> None:
    world.write(tmp_path)
    asked = [("a", "de")] * 3 + [("b", "de")] * 3 + [("c", "de")] * 2 + [("d", "de")]
    world.searches(tmp_path / "validated" / "impressions", asked)
    queries = [("a", "de"), ("b", "de"), ("c", "de"), ("d", "de"), ("a", "ja")]
    world.judge(
        tmp_path / "tests" / "rolling" / "served",
        [(query, locale, f"{locale}-{g}", g) for query, locale in queries for g in (0, 3)],
    )
    pool = pools.read_pools(tmp_path / "tests", tmp_path / "validated", tmp_path / "reference", world.settings()).pairs
    found = {
        (row["query"], row["locale"]): row["traffic"]
        for row in pool.to_pylist()
        if row["set"] == "rolling" and row["documents"] == "served"
    }
    assert [found[key] for key in queries] == ["head", "torso", "tail", "tail", "unseen"]


def test_the_comparison_of_a_slice_is_that_of_its_queries(root: Path) -> None:
    settings = world.settings()
    one = _measured(_pool(root, settings), "rolling", settings)
    rows = [
        row
        for row in one.per_query.to_pylist()
        if (row["pairs"], row["measure"], row["locale"]) == ("all", "NDCG@5", "ja")
    ]
    found = one.compared["all"]["locale:ja"]["NDCG@5"]
    differences = [row["challenger"] - row["champion"] for row in rows]
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.low < found.difference < found.high
    assert found.p <= found.p_holm
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * np.std(differences, ddof=1) / 80**0.5)
    assert np.isnan(one.compared["all"]["query_age:old"]["NDCG@5"].p_holm)  # one query
    assert one.compared["all"]["all"]["NDCG@5"].p_holm == one.compared["all"]["all"]["NDCG@5"].p


def test_each_distinct_pair_is_scored_once(root: Path) -> None:
    pool = pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings()).pairs
    model = _Model(1.0)
    scored(pool, {"champion": model})
    assert model.asked == 2 * 80 * 4  # both locales share their texts


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
        | {kind: ["x"] * 4 for kind in KINDS if kind != "locale"}
    )
    settings = EvaluationSettings(cutoffs=(1,), gate={"cutoff": 1})
    rows = per_query(numbered(pool), ("rolling", "served"), "all", settings).to_pylist()
    found = [(row["locale"], row["champion"], row["challenger"]) for row in rows if row["measure"] == "NDCG@1"]
    assert found == [("de", 1, 0), ("fr", 0, 1)]


def test_pools_of_one_grade_are_left_out(root: Path) -> None:
    rows = [(f"q{q}", "de", f"de-{g}", int(q > 0) * g) for q in range(60) for g in range(4)]
    world.judge(root / "tests" / "rolling" / "served", rows)
    settings = world.settings()
    assert _measured(_pool(root, settings), "rolling", settings).compared["all"]["all"]["AP"].n == 59


def test_an_empty_set_is_measured_as_nothing(root: Path) -> None:
    world.judge(root / "tests" / "frozen" / "served", [])
    settings = world.settings()
    one = _measured(_pool(root, settings), "frozen", settings)
    assert (one.compared["all"], one.calibration, one.rankings.num_rows) == ({}, None, 0)


def test_calibration_counts_the_pairs_of_ranked_queries(root: Path) -> None:
    settings = world.settings()
    found = _measured(_pool(root, settings), "rolling", settings).calibration
    assert found is not None
    assert (found.pairs, found.n, found.champion, found.challenger) == (640, 160, 0, 0)


def test_biggest_wins_and_losses_stand_with_both_rankings(root: Path) -> None:
    settings = world.settings()
    pool = _pool(root, settings, (2.0, 2.5))
    one = _measured(pool, "rolling", settings)
    contracts.write(one.rankings, root / "rankings", contracts.RANKINGS)
    whole = one.per_query.filter(pa.compute.equal(one.per_query["pairs"], "all"))
    found = examples.biggest(whole, one.rankings, settings.evaluation)
    rows = [row for row in whole.to_pylist() if row["measure"] == "NDCG@10"]
    differences = sorted(row["challenger"] - row["champion"] for row in rows)
    for side, wanted in (("losses", differences[:5]), ("wins", differences[:-6:-1])):
        shown = [one["challenger"]["value"] - one["champion"]["value"] for one in found[side]]
        assert shown == pytest.approx(wanted, abs=1e-3)
    first = found["wins"][0]
    scores = {
        row["doc_id"]: row["champion"]
        for row in pool.to_pylist()
        if row["documents"] == "served" and all(row[key] == first[key] for key in ("set", "locale", "query"))
    }
    ranked = [document["doc_id"] for document in first["champion"]["documents"]]
    assert ranked == sorted(scores, key=lambda doc_id: -scores[doc_id])
    assert [document["title"][-1] for document in first["champion"]["documents"]] == [
        str(document["grade"]) for document in first["champion"]["documents"]
    ]


def test_models_that_agree_have_no_wins(root: Path) -> None:
    settings = world.settings()
    one = _measured(_pool(root, settings, (0.1, 0.1)), "rolling", settings)
    assert examples.biggest(one.per_query, one.rankings, settings.evaluation) == {"wins": [], "losses": []}
    assert Counter(one.rankings["model"].to_pylist()) == {"champion": 640, "challenger": 640}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("q", "de", "de-9", 1)],
            "rolling/served: none of the documents of its 1 pairs is in .*, such as doc_id 'de-9'",
        ),
        ([("q", "de", "de-1", 1), ("q", "de", "de-1", 2)], r"1 pairs are judged twice, such as query 'q' \(de\)"),
    ],
)
def test_bad_pools(root: Path, rows: list[world.Judged], message: str) -> None:
    world.judge(root / "tests" / "rolling" / "served", rows)
    with pytest.raises(UserError, match=message):
        pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings())


def test_test_documents_that_are_gone_are_retired_and_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = [(f"q{q}", "de", f"de-{g}", g) for q in range(60) for g in range(4)]
    gone = [("q1", "de", "gone", 3), ("q59", "de", "gone", 0), ("lost", "de", "gone", 2), ("lost", "de", "away", 0)]
    world.judge(root / "tests" / "rolling" / "served", kept + gone)
    found = pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings())
    nothing = dict.fromkeys(test_sets.datasets(root / "tests"), pools.Retired(0, 0))
    assert found.retired == nothing | {("rolling", "served"): pools.Retired(4, 1)}
    assert "gone" not in found.pairs["doc_id"].to_pylist()
    told = [record.getMessage() for record in caplog.records]
    assert any("rolling/served: 4 of 244 pairs are retired" in line for line in told)
    assert any(
        "1 test queries keep no document of the catalogue and are not measured, such as 'lost'" in line for line in told
    )
    world.judge(root / "tests" / "rolling" / "served", kept)
    without = pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings())
    assert found.pairs.equals(without.pairs)


@pytest.mark.parametrize(
    "lost", ["tests/frozen/served", "tests/rolling/pool", "validated/documents", "validated/impressions", "reference"]
)
def test_a_missing_dataset_stops_the_step(root: Path, lost: str) -> None:
    (root / lost / "part-0.parquet").unlink()
    with pytest.raises(UserError, match="no Parquet files there"):
        pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings())


def test_scores_that_are_not_numbers(root: Path) -> None:
    with pytest.raises(UserError, match="challenger gives scores that are not finite"):
        _pool(root, world.settings(), (1.0, nan))


@pytest.mark.parametrize(
    ("text", "trust"),
    [
        ('{"held": [], "not_measured": []}', Trust([], [])),
        ('{"held": ["kappa is low."], "not_measured": ["no gold."]}', Trust(["kappa is low."], ["no gold."])),
        ('{"held": []}', None),
        ("{}", None),
        ('{"held": null, "not_measured": []}', None),
        ('{"held": [], "not_measured": "no"}', None),
        ("{", None),
        ("[]", None),
        (None, None),
    ],
)
def test_a_panel_that_does_not_tell_is_unknown(tmp_path: Path, text: str | None, trust: Trust | None) -> None:
    path = tmp_path / "annotate.json"
    if text is not None:
        path.write_text(text)
    assert read_trust(path) == trust


def test_the_golden_batch_is_drawn_by_seed_and_has_each_document_once(root: Path) -> None:
    pool = pools.read_pools(root / "tests", root / "validated", root / "reference", world.settings()).pairs
    batch = trial.batch(pool, 7, 23)
    assert len(batch) == 7
    assert all(len(set(request.documents)) == len(request.documents) == 4 for request in batch)
    backwards = trial.batch(pool.take(list(range(pool.num_rows))[::-1]), 7, 23)
    assert [request.query for request in backwards] == [request.query for request in batch]
    assert batch != trial.batch(pool, 7, 1)


def test_a_slice_that_lost_is_tested_against_its_own_margin(root: Path) -> None:
    """The challenger is worse on German queries only; the margin of Germanic ones is wide."""
    settings = world.settings(gate={"slice_losses": {"family:Germanic": 0.9}})
    pool = _pool(root, settings, (0.5, 0.5))
    german = pa.compute.equal(pool["locale"], "de")
    scores = pa.compute.if_else(german, pa.compute.negate(pool["challenger"]), pool["challenger"])
    pool = pool.set_column(pool.column_names.index("challenger"), "challenger", scores)
    found = {one.slice: one for one in _measured(pool, "rolling", settings).slices}
    assert found["locale:de"].p_worse < 0.01
    assert found["family:Germanic"].p_worse > 0.9
    assert found["locale:ja"].p_worse > 0.9
    assert found["pairs:no shared token"].p_worse < 0.01
    assert not found["traffic:unseen"].tested  # all queries, under another name
    assert {one.slice.split(":")[0] for one in found.values()} == set(SLICED)


def test_a_control_is_measured_on_the_challengers_queries_and_a_twin_explains_all_of_its_gain(root: Path) -> None:
    """A control with the champion's scores gains nothing; one with the challenger's leaves no difference."""
    settings = world.settings()
    pool = _pool(root, settings)
    for name, of in (("replay", "champion"), ("twin", "challenger")):
        pool = pool.append_column(column(name), pool[of])
    one = measured(
        pools.rows_of(pool, "rolling", "served"), ("rolling", "served"), settings.evaluation, ["replay", "twin"]
    )
    replay, twin = (one.less_controls[name]["NDCG@10"] for name in ("replay", "twin"))
    plain = one.compared["all"]["all"]["NDCG@10"]
    assert (replay.n, replay.control) == (plain.n, pytest.approx(plain.champion))
    found = (replay.difference, replay.low, replay.high, replay.p)
    assert found == pytest.approx((plain.difference, plain.low, plain.high, plain.p))
    assert (replay.gain, replay.gain_low, replay.gain_high, replay.gain_p) == (0, 0, 0, 1)
    assert (twin.difference, twin.low, twin.high, twin.p) == (0, 0, 0, 1)
    assert (twin.gain, twin.gain_p) == pytest.approx((plain.difference, plain.p))


def test_a_set_says_how_many_queries_its_margin_needs_before_and_after_it_is_measured(root: Path) -> None:
    """z(.975) + z(.8) = 2.8016: 0.1 is found at a deviation of 1 by 785 queries, by Cohen (1988) as well."""
    settings = world.settings(gate={"assumed_deviation": 1.0, "max_frozen_loss": 0.1, "max_pool_loss": 0.5}).evaluation
    sizes = {("rolling", "served"): 160, ("frozen", "served"): 785, ("rolling", "pool"): 1}
    gain, frozen, pool = power.assumed(sizes, settings)
    assert (gain.rule, gain.needed, gain.enough) == ("rolling_gain", None, True)  # min_gain is 0: no margin
    assert (frozen.needed, frozen.enough, frozen.detectable) == (785, True, pytest.approx(0.1, abs=1e-4))
    assert (pool.needed, pool.enough, pool.detectable) == (32, False, None)
    assert "find nothing" in pool.told("assumed")
    bound = settings.gate.model_copy(update={"min_gain": -0.1})
    (harmless, *_) = power.assumed(sizes, settings.model_copy(update={"gate": bound}))
    assert (harmless.needed, harmless.enough) == (785, False)  # a loss of 0.1 is to be ruled out
    one = _measured(_pool(root, world.settings()), "frozen", world.settings())
    rows = [row for row in one.per_query.to_pylist() if (row["pairs"], row["measure"]) == ("all", "NDCG@10")]
    (found,) = power.measured({("frozen", "served"): one.compared["all"]["all"]["NDCG@10"]}, settings)
    deviation = np.std([row["challenger"] - row["champion"] for row in rows], ddof=1)
    assert (found.queries, found.deviation) == (160, pytest.approx(deviation))
    assert found.needed == int(np.ceil((2.801585 * deviation / 0.1) ** 2))
