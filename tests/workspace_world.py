"""A workspace in a real git and DVC repository, and stand-ins for the steps that write in it."""

import hashlib
import json
import re
import shutil
from datetime import UTC, datetime

import pyarrow as pa

from serm import contracts, settings
from serm.layout import INPUTS, STATE
from serm.steps import STEPS, WATCH
from serm.workspace.begin import begin
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
    return {"served": {"all": {"all": {"n": 10, "measures": {"NDCG@10": measure}}}}}


SUMMARIES = {
    "ingest": ("ingest.json", {"rows_kept": 1, "locales": {"en": 1, "de-AT": 2}}),
    "validate": ("validate.json", {"success": True}),
    "drift": ("drift.json", {"decision": "evolve", "reasons": ["new queries"]}),
    "mine": ("mine.json", {"cascade": {"mined": 1}}),
    "annotate": ("annotate.json", {"kept": 1, "dropped": 0, "panel_version": "p1"}),
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


def run_steps(root, result="passed", weights=b"challenger", gain=0.02):
    """Stand in for the steps: their directories, as the contracts say, without the work."""
    begin(root, settings.load(root / "params.yaml"))
    for step, (name, summary) in SUMMARIES.items():
        directory = root / "cycle" / step
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / name).write_text(json.dumps(summary))
    contracts.write(impressions("fox"), root / "cycle/validate/impressions", contracts.IMPRESSIONS)
    contracts.write(PROFILES, root / "cycle/validate/profiles", contracts.PROFILES)
    contracts.write(SAMPLES, root / "cycle/drift/windows/impressions", contracts.SAMPLES)
    contracts.write(contracts.CATALOGUES.empty_table(), root / "cycle/drift/windows/catalogue", contracts.CATALOGUES)
    contracts.write(judgments([("fox", "d", 3)], "panel", 1), root / "cycle/annotate/judgments", contracts.JUDGMENTS)
    contracts.write(judgments([], "shown", 1), root / "cycle/annotate/shown", contracts.JUDGMENTS)
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
    (directory / "evaluate.json").write_text(
        json.dumps({"sets": {"frozen": measures(0.0), "rolling": measures(0.02)}, "gate": gate})
    )
    (directory / "metrics.json").write_text(json.dumps({"rolling": {"served": {"NDCG@10": {"difference": gain}}}}))
    slices = [{"slice": "all", "champion": 0.7, "challenger": 0.7 + gain}]
    (directory / "slices.json").write_text(json.dumps(slices))


def make(root, remote):
    """Make a workspace with all inputs and a first state, committed."""
    workspace = Workspace.create(root, remote)
    fill(workspace)
    return workspace


def fill(workspace):
    root = workspace.path
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
    workspace.track(*INPUTS, *STATE)
    workspace.commit("A workspace", ["."])


def copy(made, directory):
    """Copy a workspace, with its cache, to ``directory/shop``; DVC's remote is ``directory/store``."""
    shutil.copytree(made.path, directory / "shop", symlinks=True)
    config = directory / "shop" / ".dvc" / "config"
    config.write_text(re.sub("url = .*", f"url = {directory / 'store'}", config.read_text()))
    workspace = Workspace(directory / "shop")
    workspace.commit("Another remote", [".dvc/config"])
    return workspace


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


def watch(root, decision="quiet", **left):
    """Stand in for the steps that a quiet window goes through; ``left`` is what the cycle before it wrote."""
    run_steps(root, **left)
    (root / "cycle/drift/drift.json").write_text(json.dumps({"decision": decision, "reasons": []}))
    return {step: root / "cycle" / step for step in WATCH}


def next_cycle(workspace, number=2):
    path = workspace.path / "params.yaml"
    path.write_text(re.sub("number: .*", f"number: {number}", path.read_text()))
