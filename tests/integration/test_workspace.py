"""A cycle in a real git and DVC workspace: published, tagged, pinned, brought back, and moved past."""

import hashlib
import importlib.metadata
import json
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from serm import contracts, settings
from serm.errors import UserError
from serm.workspace.advance import advance, merged
from serm.workspace.layout import STEPS, WATCH
from serm.workspace.publish import publish
from serm.workspace.record import record
from serm.workspace.store import TEMPLATE, Workspace


def judgments(rows, source="seed", cycle=0):
    return pa.Table.from_pylist(
        [
            {"query": q, "locale": "en", "doc_id": d, "grade": g, "source": source, "cycle": cycle}
            | {"rationale": None, "panel_version": None, "agreement": None}
            for q, d, g in rows
        ],
        schema=contracts.JUDGMENTS,
    )


def impressions(query):
    row = {"event_time": datetime(2017, 5, 1, tzinfo=UTC), "query_id": "1", "session_id": "1", "user_id": "u"}
    row |= {"locale": "en", "query": query, "doc_id": "d", "position": 1, "clicked": False, "dwell_seconds": None}
    row |= {"negative_feedback": False, "score": 1.0, "model_version": "m", "variant": "champion"}
    return pa.Table.from_pylist([row], schema=contracts.IMPRESSIONS)


def measures(difference):
    measure = {"champion": 0.7, "challenger": 0.7 + difference, "difference": difference}
    measure |= {"low": difference - 0.01, "high": difference + 0.01, "p": 0.01, "p_holm": None, "detectable": 0.02}
    return {"all": {"all": {"n": 10, "measures": {"NDCG@10": measure}}}}


SUMMARIES = {
    "ingest": ("ingest.json", {"rows_kept": 1, "locales": {"en": 1, "de-AT": 2}}),
    "validate": ("validation.json", {"success": True}),
    "drift": ("drift.json", {"decision": "evolve", "reasons": ["new queries"]}),
    "mine": ("mining.json", {"cascade": {"mined": 1}}),
    "annotate": ("panel.json", {"kept": 1, "dropped": 0, "panel_version": "p1"}),
    "train": ("train.json", {"pairs": {"new": 1, "used": 3, "by_source": {"seed": 2, "panel": 1}}}),
}


PROFILES = pa.Table.from_pylist(
    [
        {"cycle": 1, "start": datetime(2017, 1, 1, tzinfo=UTC), "end": datetime(2018, 1, 1, tzinfo=UTC)}
        | {"dataset": "impressions", "locale": "en", "rows": 1}
    ],
    contracts.PROFILES,
)


SAMPLES = pa.Table.from_pylist(
    [{"cycle": 1, "user_id": "u", "query_id": "1", "locale": "en", "query": "fox", "position": 1, "clicked": False}],
    contracts.SAMPLES,
)


def run_steps(root, result="passed", weights=b"challenger"):
    """Stand in for the steps: their directories, as the contracts say, without the work."""
    for step, (name, summary) in SUMMARIES.items():
        directory = root / "cycle" / step
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / name).write_text(json.dumps(summary))
    contracts.write(impressions("fox"), root / "cycle/validate/impressions", contracts.IMPRESSIONS)
    contracts.write(PROFILES, root / "cycle/validate/profiles", contracts.PROFILES)
    contracts.write(SAMPLES, root / "cycle/drift/windows/impressions", contracts.SAMPLES)
    contracts.write(judgments([("fox", "d", 3)], "panel", 1), root / "cycle/annotate/judgments", contracts.JUDGMENTS)
    (root / "cycle/train/model").mkdir()
    (root / "cycle/train/model/model.safetensors").write_bytes(weights)
    plots = root / "cycle/train/tracking/plots/metrics"
    plots.mkdir(parents=True)
    (plots / "loss.tsv").write_text("step\tloss\n50\t1.5\n100\t1.25\n")
    (root / "cycle/train/tracking/metrics.json").write_text('{"loss": 1.25}')
    directory = root / "cycle/evaluate"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    gate = {"result": result, "rules": [{"rule": "rolling_gain", "result": result, "reason": "NDCG@10 rose by 0.02."}]}
    (directory / "evaluation.json").write_text(
        json.dumps({"sets": {"frozen": measures(0.0), "rolling": measures(0.02)}, "gate": gate})
    )


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "shop"
    made = Workspace.create(root, tmp_path / "store")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(TEMPLATE / name, root / name)
    for name in ("log", "documents", "knowledge", "tests"):
        (root / name).mkdir()
        (root / name / "part-0.parquet").write_bytes(name.encode())
    (root / "state/champion").mkdir(parents=True)
    (root / "state/champion/model.safetensors").write_bytes(b"champion")
    contracts.write(judgments([("cat", "d", 2)]), root / "state/judgments", contracts.JUDGMENTS)
    contracts.write(impressions("cat"), root / "state/reference", contracts.IMPRESSIONS)
    contracts.write(contracts.PROFILES.empty_table(), root / "state/profiles", contracts.PROFILES)
    contracts.write(contracts.SAMPLES.empty_table(), root / "state/windows/impressions", contracts.SAMPLES)
    state = (f"state/{name}" for name in ("champion", "judgments", "reference", "profiles", "windows"))
    made.track("log", "documents", "knowledge", "tests", *state)
    made.git("add", ".")
    made.commit("A workspace")
    return made


def outputs(workspace):
    return {step: workspace.path / "cycle" / step for step in STEPS}


def tree(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def params(workspace):
    return settings.load(workspace.path / "params.yaml")


def test_a_cycle_is_one_tag_that_brings_every_byte_back(workspace, tmp_path):
    root = workspace.path
    run_steps(root)
    first = publish(root, outputs(workspace), params(workspace))
    assert first["tag"] == "cycle-0001"
    assert "up to date" in workspace.dvc("status")
    assert workspace.git("status", "--porcelain") == ""
    card = (root / "cycle/model_card.md").read_text()
    assert "**Gate: passed.**" in card
    assert "+0.0200" in card
    assert "- panel: 1 pairs" in card
    assert "1.25" in workspace.dvc("metrics", "show")
    assert "\nlanguage: [de, en]\n" in card
    assert f"SERM's code: version {importlib.metadata.version('serm')}, commit " in card
    before = tree(root / "cycle")
    state = tree(root / "state/champion")

    moved = advance(root, params(workspace))
    assert moved["champion"] == "promoted"
    assert (root / "state/champion/model.safetensors").read_bytes() == b"challenger"
    assert contracts.read(root / "state/judgments", contracts.JUDGMENTS)["query"].to_pylist() == ["cat", "fox"]
    assert contracts.read(root / "state/reference", contracts.IMPRESSIONS)["query"].to_pylist() == ["fox"]
    assert contracts.read(root / "state/profiles", contracts.PROFILES) == PROFILES
    assert contracts.read(root / "state/windows/impressions", contracts.SAMPLES) == SAMPLES
    assert workspace.git("status", "--porcelain") == ""

    workspace.git("checkout", "--quiet", "cycle-0001")
    shutil.rmtree(root / "cycle/train")
    workspace.dvc("checkout", "--quiet")
    assert tree(root / "cycle") == before
    assert tree(root / "state/champion") == state

    clone = tmp_path / "clone"  # elsewhere, with nothing but the git history and the remote
    workspace.git("clone", "--quiet", "--branch", "cycle-0001", str(root), str(clone))
    Workspace(clone).dvc("pull", "--quiet")
    assert tree(clone / "cycle/train") == tree(root / "cycle/train")


def test_publishing_and_advancing_again_change_nothing(workspace):
    root = workspace.path
    run_steps(root)
    first = publish(root, outputs(workspace), params(workspace))
    assert publish(root, outputs(workspace), params(workspace))["commit"] == first["commit"]
    moved = advance(root, params(workspace))
    assert advance(root, params(workspace))["commit"] == moved["commit"]


def test_what_people_reviewed_joins_the_judgments(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    people = judgments([("fox", "d9", 3), ("cat", "d1", 0)], source="human", cycle=1)
    contracts.write(people, root / "reviewed", contracts.JUDGMENTS)
    before = contracts.read(root / "state/judgments", contracts.JUDGMENTS).to_pylist()
    advance(root, params(workspace))
    after = contracts.read(root / "state/judgments", contracts.JUDGMENTS).to_pylist()
    assert [row for row in after if row["source"] == "human" and row["doc_id"] == "d9"]
    assert all(row in after for row in before)
    assert workspace.git("status", "--porcelain") == ""


def test_another_result_under_the_same_tag_is_refused(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    run_steps(root, weights=b"other")
    with pytest.raises(UserError, match=r"cycle-0001 exists already and dvc\.lock differ"):
        publish(root, outputs(workspace), params(workspace))


def watch(root, decision="quiet"):
    """Stand in for the steps that a quiet window goes through."""
    run_steps(root)
    (root / "cycle/drift/drift.json").write_text(json.dumps({"decision": decision, "reasons": []}))
    return {step: root / "cycle" / step for step in WATCH}


def test_a_quiet_window_is_recorded_and_moved_past_without_a_challenger(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    advance(root, params(workspace))
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("number: 1", "number: 2"))
    judged, model = tree(root / "state/judgments"), tree(root / "state/champion")

    given = watch(root)
    contracts.write(impressions("owl"), root / "cycle/validate/impressions", contracts.IMPRESSIONS)
    first = record(root, given, params(workspace))
    assert first["tag"] == "cycle-0002"
    assert record(root, given, params(workspace))["commit"] == first["commit"]
    assert {file.stem for file in (root / "history/cycle-0002").iterdir()} == set(WATCH)
    assert workspace.git("status", "--porcelain") == ""

    assert advance(root, params(workspace))["champion"] == "kept"
    assert contracts.read(root / "state/reference", contracts.IMPRESSIONS)["query"].to_pylist() == ["owl"]
    assert (tree(root / "state/judgments"), tree(root / "state/champion")) == (judged, model)
    assert workspace.git("status", "--porcelain") == ""

    brought_back = []
    for tag, steps in (("cycle-0001", STEPS), ("cycle-0002", WATCH)):
        workspace.git("checkout", "--quiet", tag)
        workspace.dvc("checkout", "--quiet")
        assert "up to date" in workspace.dvc("status", *steps)
        brought_back.append(tree(root / "cycle/validate"))
    assert brought_back[0] != brought_back[1]


def test_a_window_that_drifted_is_not_recorded_as_quiet(workspace):
    given = watch(workspace.path, decision="evolve")
    with pytest.raises(UserError, match=r"the window of cycle-0001 drifted; run the steps after drift"):
        record(workspace.path, given, params(workspace))


@pytest.mark.parametrize("result", ["failed", "inconclusive"])
def test_a_challenger_that_did_not_pass_never_serves(workspace, result):
    root = workspace.path
    run_steps(root, result=result)
    publish(root, outputs(workspace), params(workspace))
    moved = advance(root, params(workspace))
    assert moved["champion"] == "kept"
    assert (root / "state/champion/model.safetensors").read_bytes() == b"champion"
    assert moved["judgments"] == 2


def test_outputs_from_elsewhere_are_placed_into_the_workspace(workspace, tmp_path):
    root = workspace.path
    run_steps(root)
    shutil.move(root / "cycle", tmp_path / "artifacts")
    given = {step: tmp_path / "artifacts" / step for step in STEPS}
    publish(root, given, params(workspace))
    assert tree(root / "cycle/train") == tree(tmp_path / "artifacts/train")
    assert "up to date" in workspace.dvc("status")


def test_mistakes_are_named(workspace, tmp_path):
    with pytest.raises(UserError, match="not a SERM workspace"):
        Workspace(tmp_path)
    with pytest.raises(UserError, match="cycle-0001 is not published"):
        advance(workspace.path, params(workspace))
    given = outputs(workspace)
    del given["annotate"]
    with pytest.raises(UserError, match="outputs of annotate"):
        publish(workspace.path, given, params(workspace))


def test_a_summary_of_another_serm_is_a_users_error(workspace):
    run_steps(workspace.path)
    path = workspace.path / "cycle/evaluate/evaluation.json"
    found = json.loads(path.read_text())
    found["gate"] = {"result": "passed", "reasons": ["It was better."]}
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"written by another SERM .* run the cycle's steps again"):
        publish(workspace.path, outputs(workspace), params(workspace))


def test_a_panel_label_never_replaces_an_earlier_judgment():
    earlier = judgments([("cat", "d", 2)])
    new = judgments([("cat", "d", 0), ("cat", "e", 1)], "panel", 3)
    both = merged(earlier, new)
    assert both.select(["query", "doc_id", "grade", "source"]).to_pylist() == [
        {"query": "cat", "doc_id": "d", "grade": 2, "source": "seed"},
        {"query": "cat", "doc_id": "e", "grade": 1, "source": "panel"},
    ]
    assert merged(both, new).equals(both)
