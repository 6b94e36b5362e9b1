"""``serm init`` on a real log, a real catalogue and real judgments (cut small): a workspace with a champion."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_encoder
import yaml
from typer.testing import CliRunner

from serm import contracts, layout, settings
from serm.cli import app
from serm.errors import UserError
from serm.founding import Given, Plan, init, plan
from serm.founding.parts import Parts
from serm.pairs.test_sets import POOL, SERVED, datasets
from serm.workspace.progress import Progress
from serm.workspace.store import Workspace

DATA = Path(__file__).parents[1] / "data"
LOG = DATA / "ubi-sample" / "ubi_bulk.ndjson.gz"
QUERIES, DOCUMENTS = 16, 5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixteen of ESCI's queries, five documents each, one document without an id; and a tiny encoder."""
    made = tmp_path_factory.mktemp("esci")
    with gzip.open(DATA / "esci-us" / "judgments.json.gz", "rt", encoding="utf-8") as file:
        judged = json.load(file)
    chosen = [{**one, "ratings": one["ratings"][:DOCUMENTS]} for one in judged["judgmentRatings"][:QUERIES]]
    wanted = {rating["docId"] for one in chosen for rating in one["ratings"]}
    with gzip.open(DATA / "esci-us" / "products.jsonl.gz", "rt", encoding="utf-8") as file:
        products = [row for row in map(json.loads, file) if row["_id"] in wanted]
    (made / "judgments.json").write_text(json.dumps({**judged, "judgmentRatings": chosen}), encoding="utf-8")
    lines = [json.dumps(one) for one in [*products, {"title": "nobody knows which"}]]
    (made / "products.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = tiny_encoder.write(made / "encoder")
    return {"documents": made / "products.jsonl", "judgments": made / "judgments.json", "base": base}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")


def arguments(files: dict[str, Path], *more: str) -> list[str]:
    named = [f"--{name}={path}" for name, path in files.items()]
    return [*named, f"--log={LOG}", "--ratings=0,1,10,100", "--every=100", *more]


@pytest.fixture(scope="module")
def made(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace whose init was killed before the first champion, and run again."""
    path = tmp_path_factory.mktemp("shops") / "shop"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
        patch.setattr("serm.training.bootstrap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        CliRunner().invoke(app, ["init", str(path), *arguments(files)])
        assert not (path / layout.AFTER).exists()
        patch.undo()
        patch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
        done = CliRunner().invoke(app, ["init", str(path), *arguments(files)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path, done.output


def test_a_workspace_is_there_with_all_that_a_cycle_reads(made: tuple[Path, str]) -> None:
    path, output = made
    workspace = Workspace(path)
    assert workspace.git("status", "--porcelain") == ""
    assert workspace.changed(*layout.INPUTS, layout.CHAMPION, layout.JUDGMENTS, layout.REFERENCE) == []
    assert Progress.read(path).after == "cycle-0000"
    assert settings.load(path / layout.PARAMS).cycle.every == 100
    assert contracts.read(path / layout.REFERENCE, contracts.IMPRESSIONS).num_rows > 0
    assert f"cd {path}" in output
    assert "serm evolve" in output


def test_a_teams_own_log_stays_as_it_is_and_the_workspaces_takes_newer_files(made: tuple[Path, str]) -> None:
    (kept,) = (made[0] / layout.LOG).iterdir()
    assert kept.read_bytes() == LOG.read_bytes()
    assert kept.stat().st_ino != LOG.stat().st_ino  # DVC makes what it tracks read-only: not the team's file


def test_a_log_in_a_directory_that_nobody_may_write_to_is_taken(files: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    (log / "2025").mkdir(parents=True)
    (log / "2025" / LOG.name).write_bytes(LOG.read_bytes())
    for directory in (log / "2025", log):
        directory.chmod(0o555)
    root = tmp_path / "shop"
    Parts(root, Given(log, files["documents"], []), plan_of(log), []).log()
    assert {path.stat().st_mode & 0o700 for path in (root / layout.LOG, root / layout.LOG / "2025")} == {0o700}


def test_a_window_that_validation_would_refuse_is_told(made: tuple[Path, str], files: dict[str, Path]) -> None:
    parts = Parts(made[0], Given(LOG, files["documents"], []), plan_of(LOG), [])
    found = settings.load(made[0] / layout.PARAMS)
    stricter = found.validation.model_copy(update={"min_impressions": 10_000})
    known = contracts.read(made[0] / layout.DOCUMENTS, contracts.DOCUMENTS).select(["locale", "doc_id"])
    known = known.append_column("impressions", pa.array([1] * known.num_rows, pa.int64()))
    assert parts.lacking(known, found) == []
    (told,) = parts.lacking(known, found.model_copy(update={"validation": stricter}))
    assert "`serm evolve` stops at fewer than validation.min_impressions (10,000)" in told


def plan_of(log: Path) -> Plan:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    return Plan({}, now, now, (now, now), (now, now), {}, [], contracts.JUDGMENTS.empty_table(), [])


def test_the_champion_stands_beside_what_needs_no_training(made: tuple[Path, str]) -> None:
    for way in ("champion", "cosine", "BM25", "random"):
        assert f"NDCG@10, frozen: {way}" in made[1]


def test_no_judgment_is_lost_and_none_is_in_two_parts(made: tuple[Path, str], files: dict[str, Path]) -> None:
    seed = contracts.read(made[0] / layout.JUDGMENTS, contracts.JUDGMENTS)
    tests = {key: contracts.read(path, contracts.JUDGMENTS) for key, path in datasets(made[0] / layout.TESTS).items()}
    pools = [table for (_, documents), table in tests.items() if documents == POOL]
    assert seed.num_rows + sum(table.num_rows for table in pools) == QUERIES * DOCUMENTS
    assert set(pc.unique(seed["source"]).to_pylist()) == {"seed"}
    asked = [set(table["query"].to_pylist()) for table in (seed, *pools)]
    assert sum(map(len, asked)) == len(set.union(*asked)) == QUERIES
    assert all(table.num_rows for (_, documents), table in tests.items() if documents == SERVED)


def test_what_cannot_be_kept_lies_aside_with_its_reason(made: tuple[Path, str]) -> None:
    (line,) = (made[0] / "quarantine" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["line"] == QUERIES * DOCUMENTS + 1
    assert "1 documents cannot be kept (1 because it has no id); they are in quarantine/documents.jsonl" in " ".join(
        made[1].split()
    )


def test_params_yaml_has_each_section_that_a_stage_of_dvc_yaml_names(made: tuple[Path, str]) -> None:
    stages = yaml.safe_load((made[0] / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {section for stage in stages.values() for section in stage["params"]}
    assert named <= yaml.safe_load((made[0] / layout.PARAMS).read_text(encoding="utf-8")).keys()


def test_it_says_that_the_log_is_of_another_catalogue(made: tuple[Path, str]) -> None:
    told = " ".join(made[1].split())
    assert "are not in the catalogue, such as" in told
    assert "`serm evolve` will stop at validation" in told


def test_it_says_how_many_test_queries_would_do(made: tuple[Path, str]) -> None:
    assert "four times in five takes about 1,766" in " ".join(made[1].split())


def test_a_workspace_is_not_made_over_another(made: tuple[Path, str], files: dict[str, Path]) -> None:
    given = Given(LOG, files["documents"], [files["judgments"]], ratings="0,1,10,100")
    with pytest.raises(UserError, match="a workspace is there already"):
        init(made[0], given)


def test_a_plan_writes_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "shop"), *arguments(files, "--dry-run", "--json")])
    told = json.loads(done.stdout)
    assert told["fields"]["id"] == "_id"
    assert told["reference window"] == ["2024-02-26 00:00:00", "2024-06-05 00:00:00"]
    assert told["first cycle's window"] == ["2024-11-23 16:47:49", "2025-03-03 16:47:49"]
    assert "a gap from 2024-06-05 on" in " ".join(told["notes"])
    assert told["judgments"]["seed_queries"] > 0
    assert "base: " in told["params"]
    assert list(tmp_path.iterdir()) == []


def test_what_the_log_needs_is_in_the_plan_and_in_params_yaml(files: dict[str, Path], tmp_path: Path) -> None:
    records = []
    for number in range(40):
        head = {
            "query_id": f"q{number}",
            "client_id": f"u{number}",
            "timestamp": f"2026-03-{1 + number // 2:02d}T10:00:00Z",
        }
        records.append({**head, "user_query": f"lamp {number}"})
        for place in (1, 2, 3):
            where = {"object": {"object_id": f"d{place}"}, "position": {"ordinal": place}}
            actions = ["product_impression"] + (["Tile_Click"] if place == 2 else [])
            records += [{**head, "action_name": action, "event_attributes": where} for action in actions]
    log = tmp_path / "log.ndjson"
    log.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    given = Given(log, files["documents"], [files["judgments"]], ratings="0,1,10,100", every=5)
    planned = plan(given)
    assert planned.stream["first_ordinal"] == 1
    root = tmp_path / "shop"
    (root / ".serm").mkdir(parents=True)
    found = Parts(root, given, planned, []).settings({"characters": {"95 %": 100}})
    assert "product_impression" in found.stream.shown
    assert "Tile_Click" in found.stream.clicked
    assert found.stream.first_ordinal == 1
    assert (found.cycle.end - found.cycle.start).days == 5


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"log": "nowhere"}, "--log nowhere: no such file or directory; give its path on this machine"),
        ({"judgments": "nowhere"}, "--judgments nowhere: no such file or directory"),
        ({"documents": "nowhere"}, "nowhere: no such file or directory"),
        ({"knowledge": "nowhere"}, "--knowledge nowhere: no such file or directory"),
        ({"ratings": None}, "ratings"),
    ],
)
def test_a_wrong_path_or_scale_is_one_sentence_before_anything_is_made(
    changed: dict[str, str | None], told: str, files: dict[str, Path]
) -> None:
    given = {"log": LOG, **files, "ratings": "0,1,10,100"}
    given |= {name: Path(value) if value else None for name, value in changed.items()}
    known = {"ratings": given["ratings"], "knowledge": given.get("knowledge")}
    with pytest.raises(UserError, match=told):
        plan(Given(given["log"], given["documents"], [given["judgments"]], **known))


def test_an_init_of_other_files_does_not_go_on_with_a_begun_one(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "shop"
    (path / ".serm").mkdir(parents=True)
    (path / ".serm" / "init.json").write_text('{"every": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="was cut short there"):
        init(path, Given(LOG, files["documents"], [files["judgments"]]))


@pytest.mark.filterwarnings("error:.*no effect in the current local runner")
def test_the_first_evolve_says_in_one_sentence_what_the_sample_lacks_and_the_report_that_there_is_no_cycle(
    made: tuple[Path, str], tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(made[0], shop, symlinks=True)
    params = (shop / layout.PARAMS).read_text(encoding="utf-8")
    (shop / layout.PARAMS).write_text(params.replace("draw: 50", "draw: 0"), encoding="utf-8")
    evolved = CliRunner().invoke(app, ["evolve", f"--workspace={shop}"])
    assert isinstance(evolved.exception, UserError)
    told = str(evolved.exception)
    assert "broke a rule, most by 'doc_id is not in the catalogue'" in told
    assert told.count("Error") == 0
    reported = CliRunner().invoke(app, ["report", f"--workspace={shop}"])
    assert "no cycle to report on" in str(reported.exception)
