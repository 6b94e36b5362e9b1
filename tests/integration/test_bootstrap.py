"""Without any judgment: queries of a log are drawn, pooled, graded by simulated LLM judges or people, and found a
workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_encoder
import yaml
from fake_llm import FakeLLM, shared_words
from typer.testing import CliRunner

from serm import contracts, layout
from serm import engine as engines
from serm.cli import app
from serm.errors import UserError
from serm.evaluation import makers
from serm.founding import bootstrap
from serm.founding.given import Given
from serm.founding.init import plan
from serm.judging.known_answers import FAR, ITSELF
from serm.judging.review import Reviews
from serm.pairs.test_sets import SERVED, datasets
from serm.pairs.text import fold
from serm.pooling import draw
from serm.settings import EngineSettings

COLOURS = ("red", "blue", "green", "white", "black", "pink")
CHECKS = FAR + ITSELF + 2 * 16
"""Made-up pairs, and of the far ones those with planted orders and padding."""
THINGS = ("lamp", "rug", "chair", "table", "vase", "clock")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """36 documents, and a log of 36 queries, each of which was served five documents; 'red lamp' ten times."""
    made = tmp_path_factory.mktemp("shop")
    names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    rows = [{"id": f"d{n}", "title": name, "description": f"a {name} for the home"} for n, name in enumerate(names)]
    (made / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records: list[dict[str, Any]] = []
    for n, query in enumerate([*names, *(["Red  Lamp"] * 9)]):
        head = {"query_id": f"q{n}", "client_id": f"u{n}", "timestamp": f"2026-03-{1 + n % 28:02d}T10:00:00Z"}
        records.append({**head, "user_query": query})
        for place in range(5):
            where = {"object": {"object_id": f"d{(n + 7 * place) % 36}"}, "position": {"ordinal": place}}
            records += [{**head, "action_name": "impression", "event_attributes": where}]
            if not place:
                records += [{**head, "action_name": "click", "event_attributes": where}]
    (made / "log.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    tiny_encoder.write(made / "encoder")
    return {"log": made / "log.ndjson", "documents": made / "products.jsonl", "encoder": made / "encoder"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")


def run(out: Path, files: dict[str, Path], params: Path, *more: str) -> dict[str, Any]:
    given = [f"--{name}={files[name]}" for name in ("log", "documents")]
    arguments = ["bootstrap", str(out), *given, "--queries=30", "--sample=5", f"--params={params}", "--json", *more]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def graded(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two simulated LLM judges of one mind made of it, run twice."""
    out = tmp_path_factory.mktemp("cold") / "judged"
    with FakeLLM(shared_words) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
        llms = [{"name": name, "base_url": fake.url, "model": name, "paths": 1} for name in ("a", "b")]
        params = {"relevance": {"base": str(files["encoder"])}, "judging": {"llms": llms, "min_confidence": 0.6}}
        file = out.parent / "judges.yaml"
        file.write_text(yaml.safe_dump(params))
        first = run(out, files, file)
        asked = sum(fake.seen.values())
        assert run(out, files, file) | {"judges": None} == first | {"judges": None}
        assert sum(fake.seen.values()) == asked
        assert 2 * first["pairs"] < asked <= 2 * (first["pairs"] + CHECKS)  # a made-up pair may be one of the pairs
    return out, first


def test_queries_are_drawn_once_whatever_their_spelling(graded: tuple[Path, dict[str, Any]]) -> None:
    out, told = graded
    table = contracts.read(out / "annotate" / "judgments", contracts.JUDGMENTS)
    queries = set(table["query"].to_pylist())
    assert told["queries"] == 30 == len({fold(query) for query in queries}) == len(queries)
    assert min(told[kind] for kind in ("head", "torso", "tail")) > 0


def test_each_pair_is_graded_or_for_people_and_a_sample_is_both(graded: tuple[Path, dict[str, Any]]) -> None:
    out, told = graded
    key = ["query", "doc_id"]
    panel = contracts.read(out / "annotate" / "judgments", contracts.JUDGMENTS).select(key).to_pylist()
    people = contracts.read(out / "annotate" / "review", contracts.REVIEW).select(key).to_pylist()
    assert told["sampled"] == 5 == sum(pair in panel for pair in people)
    assert len(panel) + len(people) == told["pairs"] + 5
    assert 30 * 5 <= told["served"] < told["pairs"]  # beside what was served stands what searches find


def test_judges_are_checked_with_made_up_pairs_of_known_answers(graded: tuple[Path, dict[str, Any]]) -> None:
    for of in graded[1]["judges"].values():
        checks = of["checks"]
        assert checks["known_answers"] == {"asked": FAR + ITSELF, "judged": FAR + ITSELF, "right": 1.0}
        assert (checks["canaries"]["asked"], checks["padded"]["shift"]) == (16, 0)
    assert "held" not in graded[1]


def test_no_grade_of_a_judge_that_likes_everything_is_kept(files: dict[str, Path], tmp_path: Path) -> None:
    with FakeLLM(lambda query, document: 3) as fake:
        llm = {"name": "a", "base_url": fake.url, "model": "a", "paths": 1}
        params = {"relevance": {"base": str(files["encoder"])}, "judging": {"llms": [llm], "min_confidence": 0.6}}
        (tmp_path / "judges.yaml").write_text(yaml.safe_dump(params))
        told = run(tmp_path / "judged", files, tmp_path / "judges.yaml", "--queries=5")
    assert told["by_panel"] == 0
    assert told["to_review"] == told["pairs"]
    assert "the share of a's grades of pairs with known answers that are right is 0." in told["held"]


def test_a_workspace_is_founded_on_it_and_says_who_judged(
    graded: tuple[Path, dict[str, Any]], files: dict[str, Path], tmp_path: Path
) -> None:
    out = graded[0]
    reviews = Reviews(out / "annotate", out / "validate", out / "reviewed")
    sample = [item.key for item in reviews.left][:5]
    for key in sample:
        reviews.grade(key, 0)
    planned = plan(Given(files["log"], files["documents"], [out]))
    made = planned.made
    assert (made["people"], made["sample"]["pairs"]) == (5, 5)
    assert made["panel"] + 5 >= planned.judgments.num_rows
    people = planned.judgments.filter(pc.equal(planned.judgments["source"], "human"))
    assert set(people["grade"].to_pylist()) == {0}


def test_without_judges_all_is_for_people_and_nothing_founds_before_they_graded(
    files: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"relevance": {"base": str(files["encoder"])}}))
    told = run(tmp_path / "cold", files, file, "--draw=top")
    assert told["to_review"] == told["pairs"]
    with pytest.raises(UserError, match="nothing of it is graded yet; grade it with `serm review"):
        plan(Given(files["log"], files["documents"], [tmp_path / "cold"]))
    with pytest.raises(UserError, match="no --judgments: without any, `serm bootstrap DIRECTORY`"):
        plan(Given(files["log"], files["documents"], []))
    with pytest.raises(UserError, match="something is there already"):
        bootstrap.bootstrap(layout.LOG if layout.LOG.exists() else files["log"].parent, _wanted(files), _settings())


def test_a_catalogue_that_the_log_is_not_of_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"id": f"x{n}", "title": f"red lamp {n}"}) for n in range(3)))
    settings = _settings()
    tiny = settings.relevance.model_copy(update={"base": str(files["encoder"])})
    wanted = bootstrap.Wanted(files["log"], other)
    with pytest.raises(UserError, match="no document that the log shows for the drawn queries"):
        bootstrap.bootstrap(tmp_path / "cold", wanted, settings.model_copy(update={"relevance": tiny}))


def _wanted(files: dict[str, Path]) -> bootstrap.Wanted:
    return bootstrap.Wanted(files["log"], files["documents"])


def _settings() -> Any:
    from serm.founding.given import early

    return early("en")


def searched(counts: dict[str, int]) -> pa.Table:
    """Impressions of three documents for each search of each query."""
    rows = [
        {"locale": "en", "query": query, "query_id": f"{query}-{n}", "doc_id": f"d{place}"}
        for query, times in counts.items()
        for n in range(times)
        for place in range(3)
    ]
    return pa.Table.from_pylist(rows)


def drawn(counts: dict[str, int], count: int, **how: Any) -> list[str]:
    import ibis

    with engines.connect(EngineSettings()) as engine:
        return list(draw(engine, ibis.memtable(searched(counts)), count, **how)["query"].to_pylist())


def test_each_way_of_drawing_gives_what_it_says() -> None:
    counts = {f"q{n}": 1 for n in range(40)} | {"head": 60, "torso": 40}
    assert drawn(counts, 2, how="top") == ["head", "torso"]
    assert {"head", "torso"} <= set(drawn(counts, 9, how="stratified"))
    by_traffic = [set(drawn(counts, 4, how="pps", seed=seed)) for seed in range(12)]
    alike = [set(drawn(counts, 4, how="random", seed=seed)) for seed in range(12)]
    assert sum("head" in of for of in by_traffic) > sum("head" in of for of in alike)
    assert len(set(map(frozenset, alike))) > 1
    assert drawn(counts, 4, how="random", seed=3) == drawn(counts, 4, how="random", seed=3)


def test_no_taken_query_is_drawn_in_any_spelling() -> None:
    counts = {"Red  Lamp": 9, "red lamp": 3, "rug": 1}
    assert drawn(counts, 5, how="top") == ["Red  Lamp", "rug"]
    assert drawn(counts, 5, how="top", taken=pa.array(["red lamp"])) == ["rug"]


def test_a_panel_that_judged_the_test_sets_is_named(tmp_path: Path) -> None:
    row = {name: None for name in contracts.JUDGMENTS.names}
    row |= {"query": "a", "locale": "en", "doc_id": "d", "grade": 1, "cycle": 3}
    for key, path in datasets(tmp_path).items():
        source = "panel" if key == ("rolling", SERVED) else "human"
        contracts.write(
            pa.Table.from_pylist([{**row, "source": source}], contracts.JUDGMENTS), path, contracts.JUDGMENTS
        )
    assert "graded 0 of 1 served pairs of the frozen set, 1 of 1 served pairs of the rolling set" in makers.told(
        tmp_path
    )
    assert makers.counts(tmp_path)["rolling"] == {"queries": {"3": 1}, "pairs": {"panel": 1}}
    (tmp_path / "made.json").write_text('{"sample": {"pairs": 50, "same": 41}}')
    assert "Of a sample of 50 people graded 41 alike" in makers.told(tmp_path)
