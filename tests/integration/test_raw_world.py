"""The emoji world as a company's raw files: `serm init` and the demo begin from them, and none tells the truth."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_encoder
import yaml
from typer.testing import CliRunner

from serm import contracts, layout, pooling, settings
from serm.cli import app
from serm.evaluation import makers
from serm.founding.given import early
from serm.pairs.test_sets import POOL, SERVED, datasets
from serm.workspace.progress import Progress
from serm.workspace.store import TEMPLATE, Workspace
from serm.worlds import pools, raw, traffic
from serm.worlds.emoji import WINDOWS, EmojiWorld
from serm.worlds.emoji_stream import EmojiStream
from serm.worlds.small import small_world

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
COMPANY = {"products.jsonl", "judgments.jsonl", "log", "knowledge"}


class Letters:
    """An encoder of a text's letters."""

    def embed(self, texts: list[str], kind: str) -> Any:
        found = np.array([np.bincount([ord(c) % 64 for c in f"{text} "], minlength=64) for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(autouse=True, scope="module")
def _key() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EmojiWorld:
    return replace(small_world(tmp_path_factory.mktemp("world")), test_queries=20, sessions=600)


@pytest.fixture(scope="module")
def stage() -> Any:
    return traffic.FirstStage(Letters())


@pytest.fixture(scope="module")
def company(world: EmojiWorld, stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "raw"
    raw.write_company(folder, world, stage)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.write(tmp_path_factory.mktemp("encoder"))


def test_a_company_has_a_log_a_catalogue_and_judgments_and_no_truth(company: Path, world: EmojiWorld) -> None:
    assert {path.name for path in company.iterdir()} == COMPANY
    rows = [json.loads(line) for line in (company / "products.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {name for row in rows for name in row} == {"id", "locale", "title", "body", "published_at", "emoji", "group"}
    judged = [json.loads(line) for line in (company / "judgments.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {name for row in judged for name in row} == {"query", "docid", "rating", "locale"}
    asked = {row["query"] for row in judged}
    assert len(asked) <= world.seed_queries + world.test_queries < len(world.truth.queries)
    with gzip.open(company / "log" / "window-1-queries.ndjson.gz", "rt", encoding="utf-8") as file:
        query = json.loads(next(iter(file)))
    assert set(query) == {
        *("application", "query_id", "client_id", "session_id", "user_query", "timestamp", "query_attributes"),
        "query_response_hit_ids",
    }


def test_the_log_tells_what_users_did_as_the_world_simulated_it(
    company: Path, world: EmojiWorld, stage: Any, tmp_path: Path
) -> None:
    wanted, _ = traffic.simulated(world.documents(1), 1, world, raw.Cosine(stage), stage)
    found = contracts.read(
        pooling.cut(company / "log", WINDOWS[1], tmp_path / "window", early("en")), contracts.IMPRESSIONS
    )
    key = ["locale", "query", "doc_id", "position", "clicked", "negative_feedback"]
    rows = [sorted(map(str, table.select(key).to_pylist())) for table in (found, wanted)]
    assert rows[0] == rows[1]
    dwell = [table["dwell_seconds"].drop_null().to_numpy() for table in (found, wanted)]
    assert len(dwell[0]) > 0.95 * len(dwell[1])  # where nothing follows, UBI tells none
    assert abs(np.median(dwell[0]) - np.median(dwell[1])) < 1


def test_the_pages_init_makes_a_workspace_of_them_and_its_windows_are_the_worlds(
    company: Path, encoder: Path, tmp_path: Path
) -> None:
    (command,) = re.findall(r"^\$ serm (init raw-shop .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shop = tmp_path / "raw-shop"
    (tmp_path / "raw").symlink_to(company)
    with contextlib.chdir(tmp_path):
        Path("params.yaml").write_text("training: {threads: 1, founding_epochs: 1}\n", encoding="utf-8")
        given = [*shlex.split(command), f"--base={encoder}", "--params=params.yaml", "--json"]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    cycle = settings.load(shop / layout.PARAMS).cycle
    assert abs((cycle.start - WINDOWS[1][0]).days) <= 1
    judged = contracts.read(shop / layout.JUDGMENTS, contracts.JUDGMENTS)
    assert len(set(judged["locale"].to_pylist())) > 3
    assert settings.load(shop / layout.PARAMS).training.founding_epochs == 1
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["impressions"]["window"] > told["impressions"]["reference"] > 1000
    assert told["judgments"]["seed_pairs"] == judged.num_rows


@pytest.fixture(scope="module")
def founded(world: EmojiWorld, stage: Any, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> EmojiStream:
    folder = tmp_path_factory.mktemp("demo")
    template = yaml.safe_load((TEMPLATE / layout.PARAMS).read_text(encoding="utf-8"))
    template["training"] = {"founding_epochs": 1, "threads": 1}
    template["relevance"] = {"base": str(encoder), "layers": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(template, sort_keys=False))
    stream = EmojiStream(folder / "demo", world, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmojiStream, "_first_stage", lambda _: stage)
        with patch.context() as killing:
            killing.setattr("serm.training.bootstrap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                stream.found()
        assert not stream.is_founded
        stream.found()
    return stream


def test_the_demos_workspace_is_one_of_init_with_the_worlds_own_test_sets(
    founded: EmojiStream, world: EmojiWorld, stage: Any
) -> None:
    root = founded.path
    assert founded.is_founded
    assert Progress.read(root).after == "cycle-0000"
    assert Workspace(root).git("status", "--porcelain") == ""
    names = contracts.DOCUMENTS.names[:-1]
    found = contracts.read(root / layout.DOCUMENTS, contracts.DOCUMENTS).select(names).to_pylist()
    assert found == world.documents(0).select(names).to_pylist()
    seed = contracts.read(root / layout.JUDGMENTS, contracts.JUDGMENTS)
    assert seed.equals(contracts.conform(pools.seed(world, stage), root, contracts.JUDGMENTS))
    tests = datasets(root / layout.TESTS)
    for documents, table in pools.frozen(world, stage).items():
        found = contracts.read(tests["frozen", documents], contracts.JUDGMENTS)
        assert found.equals(contracts.conform(table, root, contracts.JUDGMENTS))
    assert makers.counts(root / layout.TESTS)["rolling"]["pairs"] == {}
    assert {path.name for path in founded.raw.iterdir()} == COMPANY | {"tests", "params.yaml"}
    params = settings.load(root / layout.PARAMS)
    assert (params.cycle.start, params.cycle.end) == WINDOWS[1]
    assert params.tests.draw == 0


def test_a_window_brings_its_catalogue_its_log_and_the_judged_lists_of_its_new_queries(
    founded: EmojiStream, world: EmojiWorld
) -> None:
    figures = founded.open_window(1)
    root = founded.path
    found = contracts.read(root / layout.DOCUMENTS, contracts.DOCUMENTS)
    assert found["doc_id"].equals(pa.chunked_array(world.documents(1)["doc_id"]))
    log = contracts.read(root / layout.LOG, contracts.IMPRESSIONS)
    assert pc.min(log["event_time"]).as_py() < WINDOWS[0][1]
    assert pc.max(log["event_time"]).as_py() > WINDOWS[1][0]
    assert figures["spoilt: blank query"]
    tests = datasets(root / layout.TESTS)
    assert all(contracts.read(tests["rolling", of], contracts.JUDGMENTS).num_rows for of in (SERVED, POOL))
