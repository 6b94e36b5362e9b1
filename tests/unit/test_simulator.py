"""Simulated users behave as their parameters say, and their log keeps the contract."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import contracts
from serm.worlds import pools, traffic
from serm.worlds.emoji import WINDOWS, EmojiWorld, split_of
from serm.worlds.simulator import Ranking, Users, browse, simulate, spoil

QUERIES, DEPTH, POSITIONS = 40, 12, 10
START, END = (np.datetime64(moment.replace(tzinfo=None), "us") for moment in WINDOWS[1])


def ranking(published="2015-07-01"):
    numbers = range(QUERIES)
    scores = np.linspace(2.8, 0.2, DEPTH) * np.linspace(0.7, 1, QUERIES)[:, None]
    return Ranking(
        queries=np.array([f"query {n}" for n in numbers]),
        locales=np.array(["de" if n % 2 else "en" for n in numbers]),
        doc_ids=np.array([[f"{n}-{d}" for d in range(DEPTH)] for n in numbers]),
        published=np.full((QUERIES, DEPTH), np.datetime64(published, "us")),
        scores=scores,
        version="0123456789ab",
    )


def run(seed=0, sessions=4000, **changes):
    shares = np.arange(1, QUERIES + 1) ** -0.9
    options = {
        "ranking": ranking(),
        "grades": np.random.default_rng(5).integers(0, 4, (QUERIES, DEPTH)),
        "popularity": shares / shares.sum(),
        "related": np.full(QUERIES, -1),
        "window": WINDOWS[1],
        "name": "w1",
        "sessions": sessions,
        "positions": POSITIONS,
        "exploration": 0.3,
        "users": Users(),
        "generator": np.random.default_rng(seed),
    }
    return simulate(**(options | changes))


def close(count, total, chance):
    """Within five standard errors of a binomial share."""
    return abs(count / total - chance) <= 5 * np.sqrt(chance * (1 - chance) / total)


def test_browsing_recovers_every_parameter_of_the_network():
    """Chapelle and Zhang (2009): C = E and A; S only after C; E next = E, not S and gamma."""
    users = Users(misclicks=0.0)
    generator = np.random.default_rng(1)
    grades = generator.integers(0, 4, (60_000, POSITIONS))
    seen = browse(grades, users, generator)
    assert seen.examined[:, 0].all()
    for grade in range(4):
        looked = seen.examined & (grades == grade)
        assert close(seen.clicked[looked].sum(), looked.sum(), users.attractiveness[grade])
        assert close(seen.disliked[looked].sum(), looked.sum(), users.dislikes[grade])
        last = seen.clicked & (grades == grade)
        # A click on the last place that is read either satisfied or was followed by giving up.
        going = np.where(last, np.roll(seen.examined, -1, axis=1), False)[:, :-1]
        stays = (1 - users.satisfaction[grade]) * users.perseverance
        assert close(going.sum(), last[:, :-1].sum(), stays)
        dwell = seen.dwell[last]
        assert np.median(dwell) == pytest.approx(users.dwell_median[grade], rel=0.05)
        assert np.log(dwell).std() == pytest.approx(users.dwell_spread, rel=0.05)
    skipped = seen.examined & ~seen.clicked
    assert close((skipped[:, :-1] & seen.examined[:, 1:]).sum(), skipped[:, :-1].sum(), users.perseverance)


def test_misclicks_lift_every_grade():
    users = Users(misclicks=0.2)
    grades = np.zeros((40_000, 1), int)
    clicked = browse(grades, users, np.random.default_rng(2)).clicked
    assert close(clicked.sum(), clicked.size, users.click_chance()[0])
    assert users.click_chance()[0] == pytest.approx(0.06 + 0.2 - 0.06 * 0.2)


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=examples(30))
def test_browsing_is_a_cascade(seed, positions):
    """Nobody reads past a gap, a satisfied click or the end of the page; only what is read is clicked or disliked."""
    generator = np.random.default_rng(seed)
    grades = generator.integers(-1, 4, (200, positions))
    seen = browse(grades, Users(), generator)
    assert not (seen.examined[:, 1:] & ~seen.examined[:, :-1]).any()
    assert not (seen.examined & (grades < 0)).any()
    assert not ((seen.clicked | seen.disliked) & ~seen.examined).any()
    assert (np.isnan(seen.dwell) == ~seen.clicked).all()
    assert (seen.dwell[seen.clicked] > 0).all()
    assert not (seen.satisfied & ~seen.clicked.any(axis=1)).any()


def test_lower_positions_get_fewer_clicks_and_better_grades_more():
    same = run(grades=np.full((QUERIES, DEPTH), 2), sessions=20_000)
    rates = same.group_by("position").aggregate([("clicked", "mean")]).sort_by("position")["clicked_mean"].to_numpy()
    assert (np.diff(rates) < 0).all()
    grades = np.tile(np.arange(4), (QUERIES, DEPTH // 4))
    log = run(grades=grades, exploration=5.0, sessions=20_000)  # ranks by chance: the grade alone tells
    number = pc.cast(pc.list_element(pc.split_pattern(log["doc_id"], "-"), 1), pa.int64()).to_numpy()
    clicked = log["clicked"].to_numpy()
    assert (np.diff([clicked[number % 4 == grade].mean() for grade in range(4)]) > 0).all()


def test_the_log_keeps_the_contract(tmp_path):
    log = contracts.conform(run(), tmp_path, contracts.IMPRESSIONS)
    frame = log.to_pandas()
    assert frame["event_time"].is_monotonic_increasing
    assert log["event_time"].to_numpy().min() >= START
    assert log["event_time"].to_numpy().max() < END
    assert (frame.groupby("query_id")["position"].agg(["min", "max", "size"]) == [1, 10, 10]).all(axis=None)
    assert not frame.duplicated(["query_id", "doc_id"]).any()
    assert (frame["dwell_seconds"].isna() == ~frame["clicked"]).all()
    assert frame["score"].between(0, 3).all()
    assert set(frame["variant"]) == {"champion"}
    assert set(frame["model_version"]) == {"0123456789ab"}
    assert frame["user_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert frame.groupby("user_id")["locale"].nunique().max() == 1
    assert frame["session_id"].nunique() / frame["user_id"].nunique() > 2


def test_the_same_seed_gives_the_same_log_and_another_seed_another():
    assert run(seed=3).equals(run(seed=3))
    assert not run(seed=3).equals(run(seed=4))


def test_queries_follow_their_popularity():
    log = run(sessions=40_000)
    asked = log.filter(pc.equal(log["position"], 1)).group_by("query").aggregate([("query", "count")])
    counts = dict(zip(asked["query"].to_pylist(), asked["query_count"].to_pylist(), strict=True))
    observed = np.array([counts[f"query {n}"] for n in range(QUERIES)])
    shares = np.arange(1, QUERIES + 1) ** -0.9
    expected = 40_000 * shares / shares.sum()
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 80  # the 0.9999 quantile for 39 degrees of freedom is 80.1
    slope = np.polyfit(np.log(np.arange(1, 21)), np.log(observed[:20]), 1)[0]
    assert slope == pytest.approx(-0.9, abs=0.05)


def test_unsatisfied_users_ask_the_related_query_and_satisfied_ones_do_not():
    related = np.roll(np.arange(QUERIES), -2)
    helpless = Users(attractiveness=(0,) * 4, misclicks=0, reformulation=0.35)
    log = run(related=related, users=helpless).to_pandas()
    turns = log.drop_duplicates("query_id").groupby("session_id")["query"].agg(list)
    asked_twice = turns[turns.map(len) == 2]
    assert close(len(asked_twice), len(turns), 0.35)
    number = asked_twice.map(lambda queries: [int(query.split()[1]) for query in queries])
    assert all(second == related[first] for first, second in number)
    content = Users(attractiveness=(1,) * 4, satisfaction=(1,) * 4)
    log = run(related=related, users=content)
    assert len(set(log["query_id"].to_pylist())) == 4000


def test_nobody_sees_a_document_before_it_is_published():
    made = ranking()
    made.published[:, ::2] = np.datetime64("2018-01-01", "us")
    log = run(ranking=made)
    before = log.filter(
        pc.less(log["event_time"], pa.scalar(np.datetime64("2018-01-01", "us")).cast(log.schema[0].type))
    )
    number = pc.cast(pc.list_element(pc.split_pattern(before["doc_id"], "-"), 1), pa.int64()).to_numpy()
    assert (number % 2 == 1).all()
    assert before["position"].to_numpy().max() == DEPTH // 2
    assert len(before) + DEPTH * 100 < len(log)


def test_spoilt_rows_are_as_many_and_as_bad_as_counted():
    log = run()
    spoilt, counts = spoil(log, 0.008, np.random.default_rng(0))
    assert sum(counts.values()) == pytest.approx(0.008 * len(log), abs=4)
    frame = spoilt.to_pandas()
    assert len(frame) == len(log) + counts["delivered twice"]
    assert frame.duplicated().sum() == counts["delivered twice"]
    assert (frame["query"].str.strip() == "").sum() == counts["blank query"]
    assert (frame["position"] == 0).sum() == counts["position 0"]
    assert (frame["dwell_seconds"] < 0).sum() == counts["negative dwell"]
    assert frame["event_time"].is_monotonic_increasing


class Letters:
    """A stand-in for the encoder: counts of letters."""

    def __init__(self):
        self.embedded, self.calls = 0, []

    def embed(self, texts, kind):
        self.calls.append(kind)
        self.embedded += len(texts) if kind == "passage" else 0
        counts = np.array([np.bincount([ord(c) % 64 for c in text.lower()], minlength=64) for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


class Model:
    """A stand-in for the champion: long titles first."""

    version = "fake"

    def score(self, queries, documents):
        return SimpleNamespace(expected=np.array([min(len(text) / 30, 3.0) for text in documents]))


def test_ranking_takes_the_nearest_of_the_locale_and_one_new_document():
    catalogue = EmojiWorld().documents(1)
    catalogue = catalogue.filter(pc.is_in(catalogue["locale"], pa.array(["de", "en"])))
    letters = Letters()
    stage = traffic.FirstStage(letters)
    asked = (["cat", "katze", "dog"], ["en", "de", "en"])
    found = traffic.rank_queries(Model(), stage, *asked, catalogue, 13, WINDOWS[1][0])
    assert found.doc_ids.shape == found.scores.shape == (3, 13)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    for ids, locale in zip(found.doc_ids, asked[1], strict=True):
        assert {doc_id.partition("-")[0] for doc_id in ids} == {locale}
        assert len(set(ids)) == 13
    assert (found.published >= START).any(axis=1).all()
    assert found.version == "fake"
    assert letters.calls == ["query", "passage"]  # at once, and not locale by locale
    before = letters.embedded
    traffic.rank_queries(Model(), stage, ["bird"], ["en"], catalogue, 13, WINDOWS[1][0])
    assert letters.embedded == before  # names are embedded once


def test_without_new_documents_the_first_stage_is_the_nearest():
    stage = traffic.FirstStage(Letters())
    passages = ["abc", "abd", "xyz", "xy"]
    assert stage.with_fresh(["ab", "xyz"], passages, np.zeros(4, bool), 2).tolist() == [[0, 1], [2, 3]]
    assert stage.with_fresh(["ab", "xyz"], passages, np.arange(4) == 3, 2).tolist() == [[0, 3], [2, 3]]


@pytest.fixture(scope="module")
def world():
    return EmojiWorld(seed_queries=20, test_queries=20, window_queries=80, sessions=600)


@pytest.fixture(scope="module")
def workspace(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stream")
    stage = traffic.FirstStage(Letters())
    for window in (0, 1):
        pools.prepare(path, window, world, pools.LETTERS)
        traffic.simulate_window(path, window, world, Model(), stage)
    return path


def test_popularity_is_zipf_over_train_queries_and_shifts(world):
    heads = []
    for window in range(4):
        queries, shares = traffic.popularity(world, window)
        assert shares.sum() == pytest.approx(1)
        assert np.allclose(np.diff(np.log(shares)) / np.diff(np.log(np.arange(1, 81))), -world.zipf)
        assert set(world.truth.splits[queries]) == {"train"}
        assert set(queries) <= set(world.live_queries(window, "train"))
        heads.append(set(queries))
    assert all(len(a & b) < 60 for a, b in pairwise(heads))
    queries, _ = traffic.popularity(world, 1)
    live = world.live_queries(1, "train")
    assert world.news(1)[queries].mean() > world.news(1)[live].mean()


def test_related_queries_share_answers_and_locale(world):
    queries, _ = traffic.popularity(world, 1)
    truth = world.truth
    chosen = traffic.related(truth, queries)
    for query, other in zip(queries, chosen, strict=True):
        if other >= 0:
            assert queries[other] != query
            assert truth.locales[queries[other]] == truth.locales[query]
            assert ((truth.grades[query] > 0) & (truth.grades[queries[other]] > 0)).any()


def test_a_simulated_window_is_of_train_queries_and_live_documents(world, workspace):
    log = contracts.read(workspace / "log", contracts.IMPRESSIONS)
    queries = {query for query in set(log["query"].to_pylist()) if query.strip()}
    assert {split_of(query) for query in queries} == {"train"}
    live = contracts.read(workspace / "documents", contracts.DOCUMENTS)
    assert set(log["doc_id"].to_pylist()) <= set(live["doc_id"].to_pylist())
    reference = contracts.read(workspace / "state" / "reference", contracts.IMPRESSIONS)
    times = reference["event_time"]
    assert WINDOWS[0][0] <= pc.min(times).as_py() <= pc.max(times).as_py() < WINDOWS[0][1]
    assert pc.min(reference["position"]).as_py() == 1
    assert set(reference["session_id"].to_pylist()).isdisjoint(log["session_id"].to_pylist())


def test_a_simulated_window_is_the_same_twice(world, workspace, tmp_path):
    pools.prepare(tmp_path, 1, world, pools.LETTERS)
    traffic.simulate_window(tmp_path, 1, world, Model(), traffic.FirstStage(Letters()))
    name = "log/window=1/part-0.parquet"
    assert (tmp_path / name).read_bytes() == (workspace / name).read_bytes()
