"""The emoji world: the issue's counts, splits that hold, and a truth that stays hidden."""

import ast
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm import contracts
from serm.worlds import pools, traffic
from serm.worlds.audit import audit
from serm.worlds.emoji import FAMILIES, LAUNCHES, TRUTH, WINDOWS, EmojiWorld, document_id, split_of

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "emoji"
SEED_LOCALES = set(LAUNCHES[0])
STEPS = (
    *("clicks", "drift", "evaluation", "judging", "mining", "relevance", "release", "rollout", "serving"),
    *("stream", "training", "validation", "workspace"),
)

sys.path.insert(0, str(DATA.parent))
import build_emoji  # noqa: E402


@pytest.fixture(scope="module")
def world():
    return EmojiWorld(seed_queries=60, test_queries=40)


@pytest.fixture(scope="module")
def workspace(world, tmp_path_factory):
    """Founded and brought to window 3; ``rolling`` holds each window's rolling test."""
    path = tmp_path_factory.mktemp("world")
    pools.prepare(path, 0, world, pools.LETTERS)
    pools.prepare(path, 3, world, pools.LETTERS)
    return path


@pytest.fixture(scope="module")
def truth(world):
    return world.truth


def rows(path):
    return contracts.read(path, contracts.JUDGMENTS).to_pylist()


def in_both(workspace, name):
    return [row for documents in ("served", "pool") for row in rows(workspace / "tests" / name / documents)]


def year_of(truth):
    return dict(zip(truth.hexcodes.tolist(), truth.years.tolist(), strict=True))


def test_the_files_hold_the_counts_of_the_issue(world, truth):
    first = np.array([truth.years[listed].min() for listed in truth.listed])
    windows = [world.released(truth.years, k) & ~world.released(truth.years, k - 1) for k in range(4)]
    assert truth.listed.shape == (11_089, 1_914)
    assert ((truth.listed.sum(axis=1) >= 3) & (truth.listed.sum(axis=1) <= 25)).all()
    new_queries = [world.released(first, k) & ~world.released(first, k - 1) for k in range(4)]
    assert [int(new.sum()) for new in new_queries] == [10_118, 589, 304, 78]
    assert [int(truth.listed[:, new].any(axis=1).sum()) for new in windows[1:]] == [2_739, 3_136, 2_375]
    assert len(contracts.read(DATA / "documents", contracts.DOCUMENTS)) == 18 * 1_914


def test_the_files_are_small_and_their_notices_are_there():
    assert sum(file.stat().st_size for file in DATA.rglob("*.parquet")) < 5_000_000
    assert "UNICODE LICENSE V3" in (DATA / "LICENSE-unicode").read_text(encoding="utf-8")
    for name in ("emojibase", "emojilib"):
        assert "MIT License" in (DATA / f"LICENSE-{name}").read_text(encoding="utf-8")


def test_documents_are_names_and_nothing_else():
    """A keyword may stand in a title only because it stands in CLDR's name; no other field could hold one."""
    documents = contracts.read(DATA / "documents", contracts.DOCUMENTS)
    assert set(documents["body"].to_pylist()) == {""}
    attributes = documents["attributes"].to_pylist()
    assert {tuple(key for key, _ in row) for row in attributes} == {("emoji", "group")}
    groups = {value for row in attributes for key, value in row if key == "group"}
    assert groups == {
        *("smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places"),
        *("activities", "objects", "symbols", "flags"),
    }
    titles = dict(zip(documents["doc_id"].to_pylist(), documents["title"].to_pylist(), strict=True))
    pairs = contracts.read(DATA / "truth", TRUTH)
    silent = pairs.filter(pc.less(pairs["grade"], 3)).select(["query", "doc_id"]).to_pylist()
    words = [pair for pair in silent if any(map(str.isalnum, pair["query"]))]
    told = [pair for pair in words if f" {pair['query']} " in f" {titles[pair['doc_id']].lower()} "]
    assert told == []
    assert titles["en-1F600"] == "grinning face"
    assert titles["de-1F42D"] == "Mäusegesicht"


@pytest.mark.parametrize(
    ("query", "locale", "hexcode", "grade"),
    [
        ("mouse", "en", "1F42D", 3),  # mouse face
        ("mouth", "en", "1F444", 3),  # the name itself, which emojibase does not list again
        ("キス", "ja", "1F1F5-1F1F0", 0),  # a kiss does not stand in Pakistan
        ("basketball", "de", "26F9", 2),
        ("basketball", "de", "1F938", 1),
    ],
)
def test_grades_follow_the_rules(truth, query, locale, hexcode, grade):
    found = truth.lookup(pa.array([query]), pa.array([locale]), pa.array([document_id(locale, hexcode)]))
    assert found.tolist() == [grade]


def test_lookup_knows_unknown_queries_and_foreign_documents(truth):
    found = truth.lookup(pa.array(["mouse", "no such query"]), pa.array(["en", "en"]), pa.array(["de-1F42D"] * 2))
    assert found.tolist() == [0, -1]


@given(st.text())
def test_a_split_depends_on_the_casefolded_text_only(text):
    assert split_of(text) == split_of(text.casefold())


def test_splits_have_their_published_sizes_and_ignore_the_locale(truth):
    shares = {split: (truth.splits == split).mean() for split in ("train", "frozen", "rolling")}
    assert shares == pytest.approx({"train": 0.7, "frozen": 0.15, "rolling": 0.15}, abs=0.02)
    sides = defaultdict(set)
    for query, split in zip(truth.queries, truth.splits, strict=True):
        sides[query.casefold()].add(split)
    assert max(map(len, sides.values())) == 1
    assert [split_of(text) for text in ("Eis", "cat", "Hund")] == ["train", "frozen", "rolling"]  # for ever


def test_another_draw_holds_out_other_queries():
    texts = [f"query {n}" for n in range(2000)]
    held = [{text for text in texts if split_of(text, draw) == "rolling"} for draw in (1, 2)]
    assert len(held[0] & held[1]) / 2000 == pytest.approx(0.15**2, abs=0.01)  # as independent draws share
    drawn = EmojiWorld(split=2).truth
    assert {split_of(text, 2) for text in drawn.queries[drawn.splits == "rolling"].tolist()} == {"rolling"}


def test_every_locale_launches_once_and_has_one_family():
    launched = sorted(locale for locales in LAUNCHES for locale in locales)
    assert launched == sorted(locale for locales in FAMILIES.values() for locale in locales)
    assert len(set(launched)) == 18


@pytest.mark.parametrize("window", range(4))
def test_a_catalogue_holds_what_is_live_by_the_end_of_its_window(world, window):
    documents = world.documents(window)
    assert set(documents["locale"].to_pylist()) == {x for locales in LAUNCHES[: window + 1] for x in locales}
    assert pc.max(documents["published_at"]).as_py() < WINDOWS[window][1]
    newest = documents.filter(pc.is_in(documents["locale"], pa.array(LAUNCHES[window])))
    if window:
        assert pc.min(newest["published_at"]).as_py() == WINDOWS[window][0]
    assert len(newest) == len(LAUNCHES[window]) * int(world.released(world.truth.years, window).sum())


def test_the_same_news_may_come_in_other_windows(world):
    years = (2016, 2017, 2018, 2026)
    finer = EmojiWorld(
        windows=tuple((datetime(a, 1, 1, tzinfo=UTC), datetime(b, 1, 1, tzinfo=UTC)) for a, b in pairwise(years)),
        launches=(LAUNCHES[0], LAUNCHES[1], LAUNCHES[2] + LAUNCHES[3]),
    )
    published = finer.documents(2).column("published_at")
    assert pc.min(published.filter(pc.is_in(finer.documents(2)["locale"], pa.array(LAUNCHES[3])))).as_py().year == 2018
    assert finer.documents(2)["doc_id"] == world.documents(3)["doc_id"]
    assert (finer.news(0) == world.news(0)).all()
    assert (finer.news(1) <= world.news(1)).all()
    assert (finer.news(1) | finer.news(2) == world.news(1) | world.news(2) | world.news(3)).all()


def test_seed_judgments_know_no_test_query_no_late_emoji_and_no_late_locale(world, workspace):
    judgments = rows(workspace / "state" / "judgments")
    years = year_of(world.truth)
    assert {split_of(row["query"]) for row in judgments} == {"train"}
    assert {row["locale"] for row in judgments} <= SEED_LOCALES
    assert max(years[row["doc_id"].partition("-")[2]] for row in judgments) <= 2016
    assert {(row["source"], row["cycle"]) for row in judgments} == {("seed", 0)}
    assert {row["grade"] for row in judgments} == {0, 1, 2, 3}


def test_the_frozen_set_is_of_the_seed_world_and_the_rolling_set_of_the_new(world, workspace):
    truth, years = world.truth, year_of(world.truth)
    frozen, rolling = (in_both(workspace, name) for name in ("frozen", "rolling"))
    assert {split_of(row["query"]) for row in frozen} == {"frozen"}
    assert {row["locale"] for row in frozen} <= SEED_LOCALES
    assert max(years[row["doc_id"].partition("-")[2]] for row in frozen) <= 2016
    assert {split_of(row["query"]) for row in rolling} == {"rolling"}
    new = world.released(truth.years, 3) & ~world.released(truth.years, 2)
    touching = {(truth.locales[i], truth.queries[i]) for i in np.flatnonzero((truth.grades[:, new] >= 2).any(axis=1))}
    assert all(row["locale"] in LAUNCHES[3] or (row["locale"], row["query"]) in touching for row in rolling)


@pytest.mark.parametrize("name", ["frozen", "rolling"])
def test_pools_have_an_answer_several_grades_and_live_documents(workspace, name):
    pools_of = defaultdict(list)
    live = set(contracts.read(workspace / "documents", contracts.DOCUMENTS)["doc_id"].to_pylist())
    for row in rows(workspace / "tests" / name / "pool"):
        pools_of[row["locale"], row["query"]].append(row["grade"])
        assert row["doc_id"] in live
    assert len(pools_of) == 40
    for grades in pools_of.values():
        assert len(grades) == 16
        assert max(grades) >= 2
        assert min(grades) == 0


@pytest.mark.parametrize(("name", "window"), [("frozen", 0), ("rolling", 3)])
def test_a_test_query_is_tested_on_all_that_the_champion_ranks_for_its_users(world, workspace, name, window):
    class Champion:
        version = "m"

        def score(self, queries, documents):
            return SimpleNamespace(expected=np.zeros(len(queries)))

    tests, pool = (rows(workspace / "tests" / name / documents) for documents in ("served", "pool"))
    asked = sorted({(row["query"], row["locale"]) for row in tests})
    assert asked == sorted({(row["query"], row["locale"]) for row in pool})
    queries, locales = zip(*asked, strict=True)
    catalogue, since = world.documents(window), world.windows[window][0]
    ranked = traffic.rank_queries(Champion(), pools.LETTERS, queries, locales, catalogue, world.candidates, since)
    served = {(query, doc_id) for query, of in zip(queries, ranked.doc_ids, strict=True) for doc_id in of}
    assert {(row["query"], row["doc_id"]) for row in tests} == served
    assert len(tests) == 40 * world.candidates
    truth = world.truth.lookup(*(pa.array([row[key] for row in tests]) for key in ("query", "locale", "doc_id")))
    assert [row["grade"] for row in tests] == truth.tolist()


def test_the_workspace_shows_no_grade_but_seed_and_test_pools(workspace):
    """Every file that founding writes is a contract; only seed judgments and test sets have grades."""
    graded = set()
    for file in sorted(workspace.rglob("*")):
        if file.is_file():
            assert file.suffix == ".parquet"
            names = set(pa.parquet.read_schema(file).names)
            place = str(file.parent.relative_to(workspace))
            graded |= {place} if names & {"grade", "listed", "subgroup"} else set()
    tests = {f"tests/{name}/{documents}" for name in ("frozen", "rolling") for documents in ("served", "pool")}
    assert graded == {"state/judgments"} | tests


def test_no_pair_is_both_taught_and_tested(workspace):
    key = ("locale", "query")
    taught = {tuple(row[k] for k in key) for row in rows(workspace / "state" / "judgments")}
    frozen = {tuple(row[k] for k in key) for row in in_both(workspace, "frozen")}
    rolling = {tuple(row[k] for k in key) for row in in_both(workspace, "rolling")}
    assert taught.isdisjoint(frozen | rolling)
    assert frozen.isdisjoint(rolling)


def test_preparing_twice_gives_the_same_bytes(world, workspace, tmp_path):
    pools.prepare(tmp_path, 0, EmojiWorld(seed_queries=60, test_queries=40), pools.LETTERS)
    pools.prepare(tmp_path, 3, world, pools.LETTERS)
    for file in workspace.rglob("*.parquet"):
        assert (tmp_path / file.relative_to(workspace)).read_bytes() == file.read_bytes()


def test_no_step_component_or_pipeline_reaches_the_world_or_its_files():
    """Not even inside a function, where it would not show when the module loads."""
    inside = ["components", "pipelines", *(f"serm/{name}" for name in STEPS)]
    files = [file for folder in inside for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    for file in files:
        source = file.read_text(encoding="utf-8")
        imported = {
            f"{getattr(node, 'module', '')}.{name.name}"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        }
        assert not [name for name in imported if "worlds" in name], file
        assert "data/emoji" not in source, file
        assert "emoji_data" not in source, file


def test_the_datasheet_has_the_numbers_of_the_files():
    written = build_emoji.numbers(DATA, (0.0, 0.0)).splitlines()[:-2]  # the last two compare the packages
    assert "\n".join(written) in (DATA / "DATASHEET.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("keyword", "name", "locale", "listed", "stands"),
    [
        ("cat", "cat face", "en", False, True),
        ("cat", "caterpillar", "en", True, False),
        ("Cat Face", "a cat-face!", "en", False, True),
        ("मुँह", "मुँह पर हाथ", "hi", False, True),  # a vowel sign is part of the word
        ("キス", "パキスタン", "ja", False, False),
        ("猫", "猫の顔", "ja", True, True),
        ("猫", "猫の顔", "ja", False, False),
        ("猫", "猫", "ja", False, True),
        ("고양이", "고양이얼굴", "ko", True, True),
        ("고양이", "고양이얼굴", "ko", False, False),
        ("?!", "question mark", "en", True, False),
    ],
)
def test_when_a_keyword_stands_in_a_name(keyword, name, locale, listed, stands):
    words = build_emoji.tokens(keyword), build_emoji.tokens(name)
    assert build_emoji.stands_in(*words, locale, listed=listed) is stands


def test_overlap_compares_lower_cased_pairs_both_ways():
    english = [{"emoji": "a", "tags": ["Cat", "pet"]}, {"emoji": "b", "tags": ["dog", "pet"]}]
    known = pa.table({"key": ["a", "a", "b"], "text": ["cat", "dog", "PET"]})
    assert build_emoji.overlap(english, known) == (2 / 4, 2 / 3)


def test_the_audit_measures_labels_judges_and_mining(world, tmp_path):
    """Three pairs with known grades 3, 1 and 0, judged and scored by hand."""
    pairs = {"query": ["mouse"] * 3, "locale": ["en"] * 3, "doc_id": ["en-1F42D", "en-1F42E", "en-1F1E9-1F1EA"]}
    truth = world.truth.lookup(*(pa.array(values) for values in pairs.values()))
    assert truth.tolist() == [3, 1, 0]
    numbers = {name: [0.0] * 3 for name in ("uncertainty", "disagreement", "engagement", "novelty", "priority")}
    agents = [[{"agent": "a", "reason": "x"}], [{"agent": "a", "reason": "x"}, {"agent": "b", "reason": "x"}], []]
    mined = pa.table({**pairs, **numbers, "agents": agents, "score": [1.0, 1.5, 0.2]})
    contracts.write(mined, tmp_path / "cycle/mine/pairs", contracts.MINED_PAIRS)
    judged = {"rationale": [""] * 2, "source": ["panel"] * 2, "cycle": [1] * 2, "agreement": [1.0] * 2}
    kept = pa.table({**{k: v[:2] for k, v in pairs.items()}, **judged, "panel_version": ["p"] * 2, "grade": [3, 2]})
    contracts.write(kept, tmp_path / "cycle/annotate/judgments", contracts.JUDGMENTS)
    opinions: dict[str, list[int] | list[int | None]] = {
        "lexical": [3, 2, 0],
        "encoder": [3, 1, 0],
        "outside knowledge": [3, None, 2],
    }
    votes = {
        **{name: values * 3 for name, values in pairs.items()},
        "judge": [judge for judge in opinions for _ in range(3)],
        "grade": pa.array([grade for grades in opinions.values() for grade in grades], pa.int8()),
        "distribution": [[0.25] * 4] * 9,
        "within_agreement": [1.0] * 9,
        "rationale": [""] * 9,
        "evidence": pa.array([[]] * 9, contracts.VOTES.field("evidence").type),
    }
    contracts.write(pa.table(votes), tmp_path / "cycle/annotate/votes", contracts.VOTES)
    shown = {**pairs, "query": ["mouse", "mouse", "never asked"], "score": [2.9, 0.0, 3.0]}
    log = {
        **{name: ["x"] * 3 for name in ("query_id", "session_id", "user_id", "model_version", "variant")},
        **shown,
        "event_time": [WINDOWS[1][0]] * 3,
        "position": [1] * 3,
        "clicked": [False] * 3,
        "dwell_seconds": pa.nulls(3, pa.float64()),
        "negative_feedback": [False] * 3,
    }
    contracts.write(pa.table(log), tmp_path / "cycle/validate/impressions", contracts.IMPRESSIONS)
    contracts.write(kept.slice(0, 0), tmp_path / "state/judgments", contracts.JUDGMENTS)

    found = audit(tmp_path, world)
    assert found["labels"]["accuracy"] == 0.5
    assert (found["labels"]["over_rated"], found["labels"]["under_rated"]) == (0.5, 0.0)
    assert found["labels_by_agent"]["b"]["accuracy"] == 0.0
    assert found["judges"]["encoder"]["quadratic_kappa"] == 1.0
    assert found["judges"]["outside knowledge"]["keep_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["panels"]["all judges"]["keep_rate"] == pytest.approx(1 / 3, abs=1e-4)  # an abstention is silence
    assert found["panels"]["without outside knowledge"]["keep_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["mined"] == {"pairs": 3, "wrong": pytest.approx(1 / 3, abs=1e-4)}
    assert found["mined_by_agent"]["a"] == {"pairs": 2, "wrong": 0.5}
    assert found["shown"] == {"pairs": 2, "wrong": 0.5}  # the grade-1 pair at score 0; the unknown query is left out
    json.dumps(found, allow_nan=False)
