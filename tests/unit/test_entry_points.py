"""Agents, judges and click models of other packages take part where params.yaml names them, and only there."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click_logs import pages_of
from installed_package import install
from judging_world import build, run
from mining_thresholds import TAU

from serm.clicks.choice import compare, known_models
from serm.errors import UserError
from serm.mining.agents import AGENTS, ask, seated
from serm.mining.selection import select
from serm.settings import ClickSettings, MiningSettings, Settings, parse

DOCS = Path(__file__).parents[2] / "docs"


def documented(page: str, beginning: str) -> str:
    """The Python that ``page`` shows, from the line that begins like this."""
    text = (DOCS / page).read_text()
    block = text[: text.index(beginning)].rindex("```python\n") + len("```python\n")
    return textwrap.dedent(text[block : text.index("```", block)])


AGENT = documented("add-an-agent.md", '"""The dwell agent') + "\nnumber = 3\n"
DOCUMENTED_JUDGE = documented("bring-your-judges.md", '"""A judge by one kind')
JUDGE = """
import numpy as np
from serm.judging.judge import Votes

class Fair:
    name = "fair"

    def __init__(self, pairs, grades, settings):
        self.share = {calibrated}

    def judge(self, pairs):
        n = {votes}
        return Votes(np.ones(n, np.int64), np.full((n, 4), 0.25), np.ones(n), ["fair, as all."] * n,
                     np.ones((1, n), np.int64), np.zeros(n, bool))
"""
CLICKS = """
from serm.clicks.pbm import PositionBasedModel

class Mine(PositionBasedModel):
    name = "a model of my own"

class Nothing:
    pass
"""
DULL = {"clicks": 0, "impressions": 9, "attractiveness": 0.1, "standard_error": 0.05, "relevance": 0.05, "score": 1.0}
DULL |= {"disagreement": 0.1, "uncertainty": 0.2, "clicks_over_expected": 0.0, "negatives": 0, "dislike_rate": 0.0}
DULL |= {"novelty": 0.0, "rise": 0.0, "found_by": "nobody"}


def test_an_agent_of_an_installed_package_is_asked_and_its_pairs_are_mined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "dwell", AGENT, {"serm.agents": "dwell = opinion"})
    options = MiningSettings(agents=("dwell",))
    rows = [{**DULL, "pair": number, "engagement": stay} for number, stay in enumerate((0.1, 0.9))]
    opinions = ask(ibis.memtable(pa.Table.from_pylist(rows)), TAU, seated(options)).to_pyarrow()
    (said,) = [opinion for opinion in opinions.to_pylist() if opinion["agent"] == "dwell"]
    assert (said["pair"], said["reason"]) == (1, "users stay: engagement 0.9")
    plain = {"query": ["a", "b"], "locale": ["en"] * 2, "doc_id": ["x", "y"], "segment": ["head"] * 2}
    scored = pa.table({"pair": [0, 1], **plain, "impressions": [9, 9], "novelty": [0.0, 0.0]})
    only = opinions.filter(pa.array([agent == "dwell" for agent in opinions["agent"].to_pylist()]))
    assert select(scored, only, 0.5, options).pair.tolist() == [1]


def test_a_package_that_no_setting_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "raise SystemExit('imported')"
    groups = ("serm.agents", "serm.judges", "serm.click_models")
    install(tmp_path, monkeypatch, "shy", source, {group: "shy = thing" for group in groups})
    assert list(seated(MiningSettings())) == list(AGENTS)
    assert "shy" not in known_models(ClickSettings())
    out = run(build(tmp_path, monkeypatch))
    assert "shy" not in json.loads((out / "annotate.json").read_text())["judges"]


def test_a_judge_of_an_installed_package_sits_on_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = JUDGE.format(calibrated="len(pairs) / len(grades)", votes="len(pairs)")
    install(tmp_path, monkeypatch, "fairness", source, {"serm.judges": "fair = Fair"})
    world = build(tmp_path, monkeypatch)
    out = run(world, judges=("fair",))
    said = pq.read_table(out / "votes").to_pylist()
    assert {row["grade"] for row in said if row["judge"] == "fair"} == {1}
    summary = json.loads((out / "annotate.json").read_text())
    assert summary["judges"]["fair"]["labelled"] == summary["held_out"]["pairs"]
    alone = run(world, judges=("fair",), offline=False)
    assert list(json.loads((alone / "annotate.json").read_text())["judges"]) == ["fair"]


def test_the_judge_of_the_docs_is_calibrated_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "shop", DOCUMENTED_JUDGE, {"serm.judges": "title = TitleBegins"})
    said = pq.read_table(run(build(tmp_path, monkeypatch), judges=("title",)) / "votes").to_pylist()
    of_title = {row["rationale"] for row in said if row["judge"] == "title"}
    assert of_title == {"the title begins with the query.", "the title begins otherwise."}


def test_a_judge_that_does_not_vote_on_every_pair_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = JUDGE.format(calibrated="1", votes="1")
    install(tmp_path, monkeypatch, "lazy", source, {"serm.judges": "lazy = Fair"})
    with pytest.raises(UserError, match=r"judging\.judges: 'lazy' of lazy 1\.2 did not vote on \d+ pairs"):
        run(build(tmp_path, monkeypatch), judges=("lazy",))


def test_a_click_model_of_an_installed_package_is_compared_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "own", CLICKS, {"serm.click_models": "own = Mine"})
    pages = pages_of(*((1, [(0, 1, click), (1, 2, not click)]) for click in (True, False, False, True)))
    held_out = np.arange(len(pages.seen)) >= 2
    assert list(compare(pages, held_out, ClickSettings(models=("own",)))) == ["pbm", "ubm", "sdbn", "dbn", "own"]
    assert list(compare(pages, held_out, ClickSettings(models=("own",), model="own"))) == ["own"]


@pytest.mark.parametrize(
    ("entry", "named", "sentence"),
    [
        ("dwell = opinion", "dwel", r"no installed package registers 'dwel' .*found: .*'dwell'.*take the name out"),
        ("novelty = opinion", "novelty", r"'novelty' of dwell 1\.2 is a name of SERM's own"),
        ("dwell = missing", "dwell", r"'dwell' of dwell 1\.2 \(dwell_plugin:missing\) cannot be imported \(Attribute"),
        ("dwell = number", "dwell", r"'dwell' of dwell 1\.2 \(dwell_plugin:number\) cannot be called"),
    ],
)
def test_an_entry_point_that_cannot_be_had_is_one_sentence_that_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, named: str, sentence: str
) -> None:
    install(tmp_path, monkeypatch, "dwell", AGENT, {"serm.agents": entry})
    with pytest.raises(UserError, match=rf"^mining\.agents: {sentence}") as caught:
        seated(MiningSettings(agents=(named,)))
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_when_it_is_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "broken", "raise RuntimeError('no\\nGPU')", {"serm.agents": "broken = opinion"})
    with pytest.raises(UserError, match=r"'broken' of broken 1\.2 .* cannot be imported \(RuntimeError: no GPU\)"):
        seated(MiningSettings(agents=("broken",)))


def test_two_packages_that_register_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("one", "two"):
        install(tmp_path, monkeypatch, package, AGENT, {"serm.agents": "dwell = opinion"})
    with pytest.raises(UserError, match=r"'dwell' is registered in serm\.agents by one 1\.2 and two 1\.2; uninstall"):
        seated(MiningSettings(agents=("dwell",)))


def test_a_click_model_that_is_none_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "own", CLICKS, {"serm.click_models": "own = Nothing"})
    with pytest.raises(UserError, match=r"clicks\.models: 'own' of own 1\.2 is no subclass"):
        known_models(ClickSettings(models=("own",)))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("clicks: {model: bdn}", "model 'bdn' is none of auto, pbm, ubm, sdbn, dbn"),
        ("mining: {agents: [dwell, dwell]}", "'dwell' stands there twice"),
        ("judging: {judges: [lexical]}", "judge 'lexical' stands there twice"),
        ("judging: {offline: false}", "no judges"),
    ],
)
def test_a_name_in_the_settings_that_cannot_be_meant_is_refused(section: str, sentence: str) -> None:
    cycle = 'cycle: {start: "2017-01-01T00:00:00Z", end: "2018-01-01T00:00:00Z"}\n'
    assert isinstance(parse(cycle), Settings)
    with pytest.raises(UserError, match=sentence):
        parse(cycle + section)
