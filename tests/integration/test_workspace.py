"""A cycle in a real git and DVC workspace: published, tagged, pinned, brought back, and moved past."""

import importlib.metadata
import json
import shutil

import pytest
from workspace_world import (
    PROFILES,
    SAMPLES,
    impressions,
    judgments,
    next_cycle,
    outputs,
    params,
    run_steps,
    tree,
    watch,
)

from serm import contracts
from serm.errors import UserError
from serm.steps import STEPS, WATCH
from serm.workspace.advance import advance, model_of
from serm.workspace.publish import publish
from serm.workspace.record import record
from serm.workspace.store import Workspace


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
    with pytest.raises(UserError, match=r"cycle-0001 exists already and cycle/train differ"):
        publish(root, outputs(workspace), params(workspace))


def test_a_quiet_window_is_recorded_and_moved_past_without_a_challenger(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    advance(root, params(workspace))
    next_cycle(workspace)
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


@pytest.mark.parametrize("result", ["error", "failed", "inconclusive"])
def test_a_challenger_that_did_not_pass_never_serves(workspace, result):
    root = workspace.path
    run_steps(root, result=result)
    publish(root, outputs(workspace), params(workspace))
    moved = advance(root, params(workspace))
    assert moved["champion"] == "kept"
    assert (root / "state/champion/model.safetensors").read_bytes() == b"champion"
    assert moved["judgments"] == 2


def test_users_have_the_last_word_on_a_challenger_that_was_rolled_out(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    (root / "rollout").mkdir()
    told = root / "rollout/cycle-0001.json"
    told.write_text('{"outcome": "running"}')
    with pytest.raises(UserError, match="this rollout is running; advance after it"):
        advance(root, params(workspace))
    told.write_text('{"outcome": "rolled_back"}')
    assert advance(root, params(workspace))["champion"] == "kept"
    assert workspace.git("show", "HEAD:./rollout/cycle-0001.json") == '{"outcome": "rolled_back"}'


def test_where_a_rollout_is_required_only_the_model_that_users_promoted_becomes_the_champion(workspace):
    root = workspace.path
    run_steps(root)
    publish(root, outputs(workspace), params(workspace))
    given = params(workspace)
    required = given.model_copy(update={"rollout": given.rollout.model_copy(update={"required": True})})
    with pytest.raises(UserError, match=r"cycle-0001\.json: there is no such rollout, and rollout\.required is set"):
        advance(root, required)
    told = root / "rollout/cycle-0001.json"
    told.parent.mkdir()
    for other in (None, {"tag": "cycle-0001", "trained": "0.dir"}):
        told.write_text(json.dumps({"outcome": "promoted", "model": other}))
        with pytest.raises(UserError, match="users promoted the model"):
            advance(root, required)
    with pytest.raises(UserError, match="users promoted the model"):
        advance(root, given)
    assert not (root / "state.json").exists() or json.loads((root / "state.json").read_text())["after"] is None
    told.write_text(json.dumps({"outcome": "promoted", "model": model_of(workspace, "cycle-0001")}))
    assert advance(root, required)["champion"] == "promoted"


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
    path = workspace.path / "cycle/evaluate/evaluate.json"
    found = json.loads(path.read_text())
    found["gate"] = {"result": "passed", "reasons": ["It was better."]}
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"written by another SERM .* run the cycle's steps again"):
        publish(workspace.path, outputs(workspace), params(workspace))
