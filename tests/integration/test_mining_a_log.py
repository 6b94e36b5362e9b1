"""The mine step on a simulated log in DuckDB: with a stand-in champion, and with the real relevance model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_models
from sklearn.feature_extraction.text import HashingVectorizer

import serm
from serm import contracts, mining, relevance
from serm import engine as engines
from serm.errors import UserError
from serm.mining.mine import Inputs, mine_pairs
from serm.pairs import test_sets
from serm.settings import Settings

QUERIES, DOCUMENTS_A_QUERY, SESSIONS = 60, 12, 40
EXAMINATION = 1 / np.arange(1, DOCUMENTS_A_QUERY + 1) ** 0.8
GRADE_SCALE = 3.0


def settings(**mining_settings: Any) -> Settings:
    window = {"start": "2017-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    return Settings.model_validate({"cycle": window, "mining": {"budget": 120, "max_scored": 300, **mining_settings}})


def keys(rows: np.ndarray) -> dict[str, list[str]]:
    """Names of (query, document) pairs; a query lives in one of two locales."""
    query, document = rows.T
    return {
        "query": [f"query {q}" for q in query],
        "locale": ["en" if q % 2 else "fr" for q in query],
        "doc_id": [f"doc-{q}-{d}" for q, d in zip(query, document, strict=True)],
    }


@pytest.fixture(scope="module")
def world() -> dict[str, pa.Table]:
    """A log drawn from a position-based model whose attractiveness is the true grade; every query is ranked by
    a champion that is wrong about each query's third document, which is excellent and which it calls bad."""
    rng = np.random.default_rng(3)
    truth = rng.choice([0.0, 1.0, 2.0, 3.0], (QUERIES, DOCUMENTS_A_QUERY), p=[0.5, 0.2, 0.2, 0.1])
    truth[:, 2] = 3.0
    believed = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 3)
    believed[:, 2] = 0.5
    ranking = np.argsort(-believed + rng.normal(0, 1.0, (SESSIONS, *believed.shape)), axis=2)
    session, query, rank = (axis.ravel() for axis in np.mgrid[:SESSIONS, :QUERIES, :DOCUMENTS_A_QUERY])
    document = ranking.ravel()
    attracted = rng.random(len(query)) < 0.05 + 0.9 * truth[query, document] / GRADE_SCALE
    clicked = attracted & (rng.random(len(query)) < EXAMINATION[rank])
    size = len(query)
    impressions = pa.table(
        {
            "event_time": pa.array([datetime(2018, 1, 1, tzinfo=UTC)] * size),
            **{name: [f"{s}-{q}" for s, q in zip(session, query, strict=True)] for name in ("query_id", "session_id")},
            "user_id": [f"u{s}" for s in session],
            **keys(np.stack([query, document], axis=1)),
            "position": rank + 1,
            "clicked": clicked,
            "dwell_seconds": pa.array(np.where(clicked, 20 + 40 * truth[query, document], 0.0), mask=~clicked),
            "negative_feedback": np.zeros(size, dtype=bool),
            "score": believed[query, document],
            "model_version": ["champion-v1"] * size,
            "variant": pa.nulls(size, pa.string()),
        }
    )
    catalogue = np.stack([axis.ravel() for axis in np.mgrid[:QUERIES, :DOCUMENTS_A_QUERY]], axis=1)
    names = keys(catalogue)
    documents = pa.table(
        {
            "doc_id": names["doc_id"],
            "locale": names["locale"],
            "title": [f"{believed[q, d]:.6f}" for q, d in catalogue],
            "body": [""] * len(catalogue),
            "published_at": pa.array([datetime(2016, 1, 1, tzinfo=UTC)] * len(catalogue)),
            "attributes": pa.array([[]] * len(catalogue), pa.map_(pa.string(), pa.string())),
        }
    )
    judged = catalogue[catalogue[:, 0] < 10]
    judgments = pa.table(
        {
            **keys(judged),
            "grade": [int(truth[q, d]) for q, d in judged],
            "rationale": pa.nulls(len(judged), pa.string()),
            "source": ["seed"] * len(judged),
            "cycle": [0] * len(judged),
            "panel_version": pa.nulls(len(judged), pa.string()),
            "agreement": pa.nulls(len(judged), pa.float64()),
        }
    )
    tests = judgments.slice(0, 0)
    return {"impressions": impressions, "documents": documents, "judgments": judgments, "tests": tests}


class Letters:
    """An encoder by spelling."""

    def embed(self, texts: list[str], kind: str) -> np.ndarray:
        letters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=2**10, alternate_sign=False)
        return letters.transform(texts).toarray().astype(np.float32)


class StandIn:
    """A champion whose expected grade stands in the document's title; it doubts what it finds middling."""

    version = "champion-v1"
    encoder = Letters()

    def score(self, queries: list[str], documents: list[str]) -> relevance.Scores:
        expected = np.array([float(document) for document in documents])
        share = expected / GRADE_SCALE
        binomial = [(1 - share) ** 3, 3 * share * (1 - share) ** 2, 3 * share**2 * (1 - share), share**3]
        return relevance.Scores(expected, np.stack(binomial, axis=1))

    def sample(self, queries: list[str], documents: list[str], samples: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return self.score(queries, documents).expected + rng.normal(0, 0.1, (samples, len(documents)))


def inputs_of(world: dict[str, pa.Table]) -> Inputs:
    tables = {name: ibis.memtable(table) for name, table in {"reference": world["impressions"], **world}.items()}
    return Inputs(**tables, model=StandIn(), document_text=lambda title, _: title)


def mined(world: dict[str, pa.Table], **mining_settings: Any) -> tuple[pa.Table, dict[str, Any]]:
    chosen = settings(**mining_settings)
    with engines.connect(chosen.engine) as engine, tempfile.TemporaryDirectory() as finished:
        found = mine_pairs(engine, inputs_of(world), chosen, Path(finished))
        return found.pairs, found.summary


def named_by(pairs: pa.Table, agent: str) -> list[bool]:
    """Whether the champion is wrong about each of the pairs that ``agent`` named."""
    named = [row["doc_id"] for row in pairs.to_pylist() if any(one["agent"] == agent for one in row["agents"])]
    return [doc_id.endswith("-2") for doc_id in named]


def test_it_finds_the_documents_that_the_champion_is_wrong_about(world: dict[str, pa.Table]) -> None:
    pairs, summary = mined(world, budget=300, clicks=None)
    wrong = {name for name in pairs["doc_id"].to_pylist() if name.endswith("-2")}
    assert len(wrong) == QUERIES - 10  # all but those already judged
    assert np.mean(named_by(pairs, "click model")) > 0.9
    assert summary["click_model"]["examination"] == pytest.approx(EXAMINATION.tolist(), abs=0.08)


def test_clicks_beyond_chance_are_worth_more_than_any_click(world: dict[str, pa.Table]) -> None:
    any_click, beyond_chance = (
        named_by(mined(world, budget=300, clicks=threshold)[0], "user feedback")
        for threshold in (None, {"quantile": 0.95})
    )
    assert np.mean(any_click) < 0.5 < 0.9 < np.mean(beyond_chance)
    assert sum(beyond_chance) > 20


def test_the_cascade_narrows_and_every_agent_and_locale_has_its_share(world: dict[str, pa.Table]) -> None:
    pairs, summary = mined(world, budget=80)
    cascade = summary["cascade"]
    assert cascade["impressions"] == world["impressions"].num_rows
    assert cascade["pairs"] == QUERIES * DOCUMENTS_A_QUERY
    assert cascade["pairs"] > cascade["candidates"] > 300 > cascade["unseen"] > 0
    assert cascade["scored"] == 300 + cascade["unseen"] > cascade["named"]
    assert cascade["mined"] == pairs.num_rows == 80
    # Seven agents, two locales, head, torso and tail, new and known queries share 80 places.
    share = 80 // 14
    for counts in summary["by_agent"].values():
        assert counts["mined"] >= min(share, counts["candidates"])
    # The champion of this log scores nothing too high, and the reference has the same queries, so none is new.
    idle = [agent for agent, counts in summary["by_agent"].items() if not counts["candidates"]]
    assert idle == ["user rejection", "novelty"]
    assert set(pairs["locale"].to_pylist()) == {"en", "fr"}
    assert json.dumps(summary, allow_nan=False)


def test_nothing_judged_rare_or_out_of_the_catalogue_is_mined(world: dict[str, pa.Table]) -> None:
    documents = world["documents"].filter(pc.invert(pc.starts_with(world["documents"]["doc_id"], "doc-20-")))
    shown_twice = world["impressions"].filter(pc.equal(world["impressions"]["query"], "query 30"))
    impressions = world["impressions"].filter(pc.not_equal(world["impressions"]["query"], "query 30"))
    changed = {**world, "documents": documents, "impressions": pa.concat_tables([impressions, shown_twice[:24]])}
    pairs, summary = mined(changed, budget=1000, max_scored=1000)
    numbers = {int(query.split()[1]) for query in pairs["query"].to_pylist()}
    assert numbers <= set(range(10, QUERIES)) - {20, 30}
    cascade = summary["cascade"]
    assert cascade["candidates"] == cascade["scored"] - cascade["unseen"] == 48 * DOCUMENTS_A_QUERY


def test_the_order_of_the_log_does_not_matter(world: dict[str, pa.Table]) -> None:
    pairs, summary = mined(world)
    order = np.random.default_rng(8).permutation(world["impressions"].num_rows)
    again, summary_again = mined({**world, "impressions": world["impressions"].take(order)})
    assert pairs.equals(again)
    assert summary == summary_again


@pytest.mark.parametrize("of_one_page", [False, True])
def test_a_robot_of_100_000_clicks_is_heard_as_one_user(world: dict[str, pa.Table], of_one_page: bool) -> None:
    """It wants a bad document of a query judged good, whether it opens pages for that or stays on one."""
    log, clicks = world["impressions"], 100_000
    of_robot = {
        "query_id": ["robot"] * clicks if of_one_page else [f"robot-{n}" for n in range(clicks)],
        "user_id": ["robot"] * clicks,
        "clicked": [True] * clicks,
        "dwell_seconds": [60.0] * clicks,
    }
    found = log.filter(pc.equal(log["doc_id"], "doc-30-5")).take([0] * clicks)
    for name, values in of_robot.items():
        field = log.schema.field(name)
        found = found.set_column(log.column_names.index(name), field, pa.array(values, field.type))
    poisoned = {**world, "reference": log, "impressions": pa.concat_tables([log, found])}
    honest, _ = attractiveness(world, "doc-30-5", 3)
    believed, beyond = attractiveness(poisoned, "doc-30-5", clicks)
    assert (believed > honest + 0.7, beyond) == (True, 0)
    heard, beyond = attractiveness(poisoned, "doc-30-5", 3)
    assert (abs(heard - honest) < 0.25, beyond) == (True, clicks - 3)


def attractiveness(world: dict[str, pa.Table], document: str, per_user: int) -> tuple[float, int]:
    """What the click model makes of a document, and how many impressions were left out."""
    chosen = Settings.model_validate({**settings().model_dump(), "clicks": {"per_user": per_user}})
    with engines.connect(chosen.engine) as engine, tempfile.TemporaryDirectory() as finished:
        mined = mine_pairs(engine, inputs_of(world), chosen, Path(finished))
        estimates = engine.to_pyarrow(mined.clicks)
    (found,) = estimates.filter(pc.equal(estimates["doc_id"], document))["attractiveness"].to_pylist()
    return found, mined.summary["beyond_per_user"]


RESPELLED = {
    "capitals and spaces": lambda query: f" {query.upper()} ",
    "two spaces": lambda query: query.replace(" ", "  "),
    "a no-break space": lambda query: query.replace(" ", "\u00a0"),
    "full width": lambda query: "".join(chr(ord(c) + 0xFEE0) if c != " " else "\u3000" for c in query),
    "zero-width characters": lambda query: "\u200b".join(query) + "\ufeff",
    "a soft hyphen": lambda query: query.replace("e", "e\u00ad"),
}


@pytest.mark.parametrize("respelled", RESPELLED.values(), ids=RESPELLED)
def test_no_pair_of_a_test_query_is_mined_in_any_spelling_or_locale(
    world: dict[str, pa.Table], respelled: Callable[[str], str]
) -> None:
    pairs, _ = mined(world, budget=300)
    tested = sorted(set(pairs["query"].to_pylist()))[:5]
    tests = pa.table({"query": [respelled(query) for query in tested], "locale": ["fi"] * len(tested)})
    others, _ = mined({**world, "tests": tests}, budget=300)
    assert others.num_rows > 0
    assert not set(tested) & set(others["query"].to_pylist())


def test_no_pair_of_a_test_query_is_mined_whichever_side_spells_it_apart(world: dict[str, pa.Table]) -> None:
    """The log asks in decomposed letters (as macOS stores them) and ss, the test set in composed ones and ß."""
    names = {"query 11": "cafe\u0301 strasse", "query 12": "CAFÉ STRASSE ２", "query 13": "caféstraße"}
    columns = {"query": [names.get(query, query) for query in world["impressions"]["query"].to_pylist()]}
    log = world["impressions"].set_column(
        world["impressions"].column_names.index("query"), "query", pa.array(columns["query"])
    )
    tests = pa.table({"query": ["café straße", "café straße 2"], "locale": ["fi"] * 2})
    pairs, _ = mined({**world, "impressions": log, "tests": tests}, budget=300)
    assert set(names.values()) & set(pairs["query"].to_pylist()) == {"caféstraße"}


def test_a_rank_at_which_nobody_clicks_gives_no_number_that_is_none(world: dict[str, pa.Table]) -> None:
    """Clicks over expected clicks would be 0 / 0 there, and NaN is above every threshold."""
    log = world["impressions"]
    deep = pc.greater(log["position"], 3)
    columns = {
        "clicked": pc.and_(log["clicked"], pc.invert(deep)),
        "dwell_seconds": pc.if_else(deep, None, log["dwell_seconds"]),
    }
    for name, column in columns.items():
        log = log.set_column(log.column_names.index(name), name, column)
    only_deep = log.filter(pc.or_(deep, pc.equal(log["query"], "query 20")))
    for impressions in (log, only_deep):
        pairs, summary = mined({**world, "impressions": impressions}, budget=300)
        assert json.dumps(summary, allow_nan=False)
        shown = pc.value_counts(impressions.filter(impressions["clicked"])["doc_id"]).field("values")
        fed = [row for row in pairs.to_pylist() if any(one["agent"] == "user feedback" for one in row["agents"])]
        assert {row["doc_id"] for row in fed} <= set(shown.to_pylist())


def test_a_log_without_a_click_is_mined(world: dict[str, pa.Table]) -> None:
    log = world["impressions"]
    nothing = {"clicked": pa.array([False] * len(log)), "dwell_seconds": pa.nulls(len(log), pa.float64())}
    for name, column in nothing.items():
        log = log.set_column(log.column_names.index(name), name, column)
    pairs, summary = mined({**world, "impressions": log}, budget=300)
    assert json.dumps(summary, allow_nan=False)
    assert summary["by_agent"]["user feedback"]["candidates"] == 0
    assert pairs.num_rows > 0


def test_a_window_whose_pairs_are_all_judged_mines_nothing(world: dict[str, pa.Table]) -> None:
    documents = world["documents"]
    everything = {name: documents[name] for name in ("doc_id", "locale")}
    everything["query"] = [f"query {name.split('-')[1]}" for name in documents["doc_id"].to_pylist()]
    pairs, summary = mined({**world, "judgments": pa.table(everything)})
    assert pairs.num_rows == summary["cascade"]["candidates"] == 0
    assert json.dumps(summary, allow_nan=False)


def test_a_bar_that_no_pair_reaches_is_an_error_that_names_the_fix(world: dict[str, pa.Table]) -> None:
    with pytest.raises(UserError, match=r"lower mining\.min_impressions"):
        mined(world, min_impressions=41)


def test_the_step_gives_the_same_bytes_twice_with_a_real_model(world: dict[str, pa.Table], tmp_path: Path) -> None:
    validated = tmp_path / "validated"
    contracts.write(world["impressions"], validated / "impressions", contracts.IMPRESSIONS)
    contracts.write(world["impressions"].slice(0, 9000), tmp_path / "reference", contracts.IMPRESSIONS)
    contracts.write(world["documents"], validated / "documents", contracts.DOCUMENTS)
    contracts.write(world["judgments"], tmp_path / "judgments", contracts.JUDGMENTS)
    for dataset in test_sets.datasets(tmp_path / "tests").values():
        contracts.write(world["tests"], dataset, contracts.JUDGMENTS)
    tiny_models.save(tmp_path / "champion", tmp_path / "base", seed=1)
    outs = [tmp_path / "mine", tmp_path / "again"]
    for out in outs:
        figures = mining.mine(
            validated,
            tmp_path / "reference",
            tmp_path / "champion",
            tmp_path / "judgments",
            tmp_path / "tests",
            out,
            settings(max_scored=120, budget=60),
        )
    first, again = ({file.relative_to(out): file.read_bytes() for file in out.rglob("*.*")} for out in outs)
    assert first == again
    pairs = contracts.read(outs[0] / "pairs", contracts.MINED_PAIRS)
    assert pairs.num_rows == figures["mined"] > 0
    assert all(agents for agents in pairs["agents"].to_pylist())
    cascade = json.loads((outs[0] / "mine.json").read_text())["cascade"]
    assert cascade["scored"] == 120 + cascade["unseen"]
    assert not list(tmp_path.glob("*.scored"))  # what a crash would have left

    estimates = contracts.read(outs[0] / "click_estimates", contracts.CLICK_ESTIMATES)
    log = world["impressions"]
    fitted = serm.fit_clicks(log).sort_by([(name, "ascending") for name in ("query", "locale", "doc_id")])
    assert estimates.select(fitted.column_names).to_pydict() == fitted.to_pydict()
    satisfied = pc.fill_null(pc.greater_equal(log["dwell_seconds"], 30), False)
    assert sum(estimates["satisfied"].to_pylist()) == pc.sum(satisfied).as_py() > 0
    assert set(estimates["settings"].to_pylist()) == {settings().clicks.model_dump_json()}
