"""Which exact data made a model: the statement that a cycle carries, and the walk from a score to the raw files."""

import hashlib
import json
import subprocess
from copy import deepcopy as copy_of

import gto.api
import pyarrow as pa
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Parsed
from typer.testing import CliRunner
from workspace_world import copy, outputs, params, run_steps

from serm import cli, contracts
from serm.errors import UserError
from serm.steps import STEPS
from serm.workspace.advance import advance
from serm.workspace.lineage import lineage
from serm.workspace.provenance import directory_hash, statement
from serm.workspace.publish import publish
from serm.workspace.store import Workspace

PAIR = {"query": ["fox"], "locale": ["en"], "doc_id": ["d"]}


@pytest.fixture(scope="module")
def made(template, tmp_path_factory):
    """A cycle that mined, judged and learnt one pair, published and moved past."""
    workspace = copy(template, tmp_path_factory.mktemp("made"))
    root = workspace.path
    run_steps(root)
    agents = [[{"agent": "feedback", "reason": "clicked, and the champion says 0.2"}]]
    numbers = {name: [0.2] for name in contracts.MINED_PAIRS.names[4:]}
    contracts.write(pa.table(PAIR | {"agents": agents} | numbers), root / "cycle/mine/pairs", contracts.MINED_PAIRS)
    vote = {"judge": ["lexical"], "grade": [3], "distribution": [[0.0, 0.0, 0.1, 0.9]], "within_agreement": [1.0]}
    vote |= {"rationale": ["the title says fox"], "evidence": [[]]}
    contracts.write(pa.table(PAIR | vote), root / "cycle/annotate/votes", contracts.VOTES)
    contracts.write(contracts.REVIEW.empty_table(), root / "cycle/annotate/review", contracts.REVIEW)
    publish(root, outputs(workspace), params(workspace), run="run-1")
    advance(root, params(workspace))
    return workspace


@pytest.fixture(scope="module")
def told(made):
    return json.loads(made.show("cycle-0001", "provenance/cycle-0001.json"))


def test_the_statement_is_in_totos_with_slsas_predicate(told):
    parsed = json_format.ParseDict(told, Parsed())
    Statement.copy_from_pb(parsed).validate()
    assert (told["_type"], told["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    predicate = json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())
    assert predicate.build_definition.build_type.startswith("https://")
    assert predicate.run_details.builder.id
    assert predicate.run_details.metadata.invocation_id == "run-1"


def test_every_artefact_has_its_sha256_and_every_input_its_hash(made, told):
    root = made.path
    subjects = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    files = [path for step in STEPS for path in (root / "cycle" / step).rglob("*") if path.is_file()]
    assert subjects == {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    definition = told["predicate"]["buildDefinition"]
    inputs = {one["name"]: one["digest"] for one in definition["resolvedDependencies"] if "name" in one}
    assert inputs["log/part-0.parquet"]["sha256"] == hashlib.sha256(b"log").hexdigest()
    command = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    done = subprocess.run(["bash", "-c", command], cwd=root / "cycle/state/judgments", capture_output=True, text=True)
    assert inputs["cycle/state/judgments"]["dirHash"] == done.stdout.strip()
    assert inputs["workspace"]["gitCommit"] == made.git("rev-parse", "cycle-0001^{commit}^")
    packages = {one["uri"] for one in definition["resolvedDependencies"] if "uri" in one}
    assert f"pkg:pypi/pyarrow@{pa.__version__}" in packages
    assert {*STEPS, "publish"} <= definition["internalParameters"]["images"].keys()
    assert definition["externalParameters"]["params"]["cycle"]["number"] == 1


def test_a_directorys_hash_is_the_one_of_in_totos_example():
    hello = "github.com/marklodato/go-hello-world@v0.0.1"
    files = {
        f"{hello}/go.mod": "28e7c942a036902d981759d0bf5704d2bfc7cb500caf68b84711b234af01c6a5",
        f"{hello}/README.md": "3a137eef6458bfb76bb2c63fc29ffc7166604d2d2e09ed9d8250a534122a8364",
        f"{hello}/main.go": "ddc4da627d9a9f45fb29641a1b185d6f53287ecfd921aacbf4fe54b7a86fe8d1",
    }
    assert directory_hash([*files.items()]) == "2a1bb6127fb481c60f67692e22285fb306f3c6ffe62075e0ccf674d7c3adcb8f"


def test_the_same_cycle_is_told_in_the_same_bytes_whenever(made, told):
    again = statement(made, params(made), STEPS, "run-1")
    assert json.loads(json.dumps(again)) == told


def test_the_model_is_in_gtos_registry_and_its_promotion_too(made):
    models = gto.api.show(str(made.path))
    assert (models["relevance"]["version"], models["relevance"]["stage"]) == ("v1.0.0", {"champion": "v1.0.0"})


def test_a_served_score_is_walked_back_to_the_raw_files(made, told):
    found = lineage(made, "cycle-0001", ("fox", "d"))
    pair = found["pair"]
    assert [(row["score"], row["model_version"]) for row in pair["served"]] == [(1.0, "m")]
    assert pair["mined"][0]["agents"] == [{"agent": "feedback", "reason": "clicked, and the champion says 0.2"}]
    assert [(row["judge"], row["rationale"]) for row in pair["votes"]] == [("lexical", "the title says fox")]
    assert [(row["grade"], row["source"]) for row in pair["panel"]] == [(3, "panel")]
    assert pair["known"] == []
    assert found["window"]["files"] == {"log/part-0.parquet": hashlib.sha256(b"log").hexdigest()}
    assert found["model"]["files"] == {"model.safetensors": hashlib.sha256(b"challenger").hexdigest()}
    assert found["cycle"] | {"commit": "", "code": None} == {
        "tag": "cycle-0001",
        "commit": "",
        "code": None,
        "gate": "passed",
        "run": "run-1",
    }
    assert lineage(made, "cycle-0001", ("cat", "d"))["pair"]["known"][0]["source"] == "seed"


def test_the_walk_is_a_verb_for_people_and_for_machines(made):
    arguments = ["lineage", "cycle-0001", "--pair", "fox", "d", "--workspace", str(made.path)]
    shown = CliRunner().invoke(cli.app, arguments)
    assert "the title says fox" in shown.output
    assert json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).output)["pair"]["doc_id"] == "d"


def test_what_nothing_is_known_of_is_said(made):
    with pytest.raises(UserError, match="cycle-0001 knows nothing of query 'owl'"):
        lineage(made, "cycle-0001", ("owl", "d"))
    with pytest.raises(UserError, match="no cycle cycle-0009"):
        lineage(made, "cycle-0009")


def test_an_old_cycle_is_walked_in_a_clone_whose_branch_has_gone_on(made, tmp_path):
    subprocess.run(["git", "clone", "--quiet", made.path, tmp_path / "clone"], check=True)
    clone = Workspace(tmp_path / "clone")
    (clone.path / "dvc.lock").unlink()
    clone.git("commit", "--quiet", "--all", "--message", "another cycle's lock")
    assert lineage(clone, "cycle-0001", ("fox", "d"))["pair"] == lineage(made, "cycle-0001", ("fox", "d"))["pair"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda told: told.pop("subject"), "'subject'"),
        (lambda told: told["predicate"].update(buildDefinition=[]), "list indices"),
        (lambda told: told["predicate"]["buildDefinition"]["externalParameters"].pop("params"), "'params'"),
    ],
)
def test_a_cycle_of_another_serm_is_one_sentence(made, told, monkeypatch, change, complaint):
    other = copy_of(told)
    change(other)
    shown = made.show
    monkeypatch.setattr(
        made, "show", lambda tag, path: json.dumps(other) if path.startswith("provenance") else shown(tag, path)
    )
    with pytest.raises(UserError, match=rf"provenance/cycle-0001\.json is of another SERM .*{complaint}"):
        lineage(made, "cycle-0001")


def test_a_setting_that_this_serm_does_not_know_is_no_obstacle(made, monkeypatch):
    before, shown = lineage(made, "cycle-0001"), made.show
    monkeypatch.setattr(made, "show", lambda tag, path: "of: another\n" if path == "params.yaml" else shown(tag, path))
    assert lineage(made, "cycle-0001") == before
