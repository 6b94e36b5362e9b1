"""An Evidently workspace, out of a real DVC repository: each cycle appends one snapshot, once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from evidently.ui.workspace import Workspace as EvidentlyWorkspace

from serm import engine as engines
from serm.drift import columns
from serm.layout import SETUP
from serm.monitoring import snapshots
from serm.settings import Settings
from serm.workspace.store import Workspace


def publish(workspace: Workspace, number: int, logs: list[pa.Table], settings: Settings) -> None:
    """Leave what a cycle's drift step and ``serm publish`` leave of it."""
    cycle = settings.cycle.model_copy(
        update={"number": number, "end": datetime.fromisoformat(f"20{18 + number}-01-01")}
    )
    for name, log in zip(("reference", "window"), logs, strict=True):
        pq.write_table(log, workspace.path / f"{name}.parquet")
    with engines.connect(settings.engine) as engine:
        earlier, now = (engine.read_parquet(workspace.path / f"{name}.parquet") for name in ("reference", "window"))
        (workspace.path / "cycle/drift").mkdir(parents=True, exist_ok=True)
        columns.compare(earlier, now, settings.drift, workspace.path / "cycle/drift", cycle)
    history = workspace.path / f"history/{cycle.name}"
    history.mkdir(parents=True)
    (history / "drift.json").write_text("{}")
    workspace.track(Path("cycle/drift"))
    workspace.commit(cycle.name, [*SETUP, "history", *workspace.pointers(Path("cycle/drift"))])
    workspace.git("tag", cycle.name)


def test_each_cycle_appends_one_snapshot_and_a_second_call_none(
    make_impressions: Callable[..., pa.Table], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(drift={"sample_searches": 100})
    workspace = Workspace.create(tmp_path / "shop", tmp_path / "store")
    logs = [make_impressions(seed=seed) for seed in range(3)]
    publish(workspace, 1, logs[:2], settings)
    out = tmp_path / "evidently"
    assert snapshots.append(workspace.path, out) == ["cycle-0001"]
    publish(workspace, 2, logs[1:], settings)
    assert snapshots.append(workspace.path, out) == ["cycle-0002"]
    assert snapshots.append(workspace.path, out) == []

    # What publish does: resumed, a cycle has one run all the same, and none is missing afterwards.
    for _ in range(2):
        snapshots.add(workspace.path, "cycle-0002", workspace.path / "cycle/drift/snapshot.json")
    of_cycles = snapshots.directory_of(workspace.path)
    assert len(list(of_cycles.glob("*/snapshots/*.json"))) == 1
    assert snapshots.append(workspace.path, of_cycles) == ["cycle-0001"]
    workspace.track(Path("cycle/drift"))  # as `serm advance` does: git is not asked to take what it is told to ignore
    assert "evidently" not in workspace.git("status", "--porcelain")

    evidently = EvidentlyWorkspace(str(out))
    (project,) = evidently.list_projects()
    assert project.name == "shop"
    runs = sorted(
        (evidently.get_run(project.id, run) for run in evidently.list_runs(project.id)), key=lambda run: run.name
    )
    assert [(run.name, run.timestamp.year) for run in runs] == [("cycle-0001", 2019), ("cycle-0002", 2020)]
    assert all(run.metric_results for run in runs)
    drawn = {value.metric.split(":")[-1] for panel in project.dashboard.model().panels for value in panel.values}
    assert drawn == {"ValueDrift", "DriftedColumnsCount"}
