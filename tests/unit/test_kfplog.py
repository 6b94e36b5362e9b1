"""What a person sees of a pipeline run: starts, the steps' own lines and figures, and the error that stopped it."""

import warnings

import pytest

from serm.workspace import runner
from serm.workspace.kfplog import StepLog
from serm.workspace.running import Journal

RUN = """\
12:00:00.000 - INFO - Running pipeline: \x1b[95m'serm-evolve'\x1b[0m
12:00:00.100 - INFO - Executing task \x1b[96m'importer'\x1b[0m
12:00:01.000 - INFO - Executing task \x1b[96m'mine'\x1b[0m
    [KFP Executor 2026-11-24 12:00:02,000 INFO]: Got executor_input:
    {"train": "not a line of a step"}
    [KFP Executor 2026-11-24 12:00:09,000 INFO]: serm: mined 12, seconds 7.5
Task train cache hit (key=abc); skipping
    train: step 50 of 100, loss 1.0
"""


def test_people_see_the_steps_and_not_the_machinery(capsys, tmp_path):
    begun = []
    with StepLog(tmp_path / "run" / "log.txt", ("mine", "train"), lambda *of: begun.append(of)) as log:
        for start in range(0, len(RUN), 7):  # lines come in pieces
            log.write(RUN[start : start + 7])
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "mine",
        "  mined 12, seconds 7.5",
        "train (done before, taken from the cache)",
        "  train: step 50 of 100, loss 1.0",
    ]
    assert (tmp_path / "run" / "log.txt").read_text() == RUN
    assert begun == [("mine", False), ("train", True)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    serm.errors.UserError: log: no Parquet files there.", "log: no Parquet files there."),
        ("    _duckdb.BinderException: Binder Error", "_duckdb.BinderException: Binder Error"),
        ("    MemoryError", "MemoryError"),
        ("    this step met no UserError: all is well", None),
    ],
)
def test_the_error_that_stopped_a_step_is_kept(tmp_path, line, said):
    with StepLog(tmp_path / "log.txt", ("mine",), lambda *of: None) as log:
        log.write(line + "\n")
    assert log.error == said


def test_what_a_step_asks_of_a_cluster_warns_nobody_here(tmp_path, monkeypatch, recwarn):
    """kfp.local ignores requests of processor and memory, and tells so step by step."""
    from kfp import components
    from kfp.local.orchestrator import task_executor
    from kfp.pipeline_spec import pipeline_spec_pb2 as spec

    def pipeline(**given):
        container = spec.PipelineDeploymentConfig.PipelineContainerSpec()
        container.resources.resource_cpu_request = "1"
        task_executor._warn_local_only_noops("mine", spec.PipelineTaskSpec(), container)
        warnings.warn("a column is empty", UserWarning, stacklevel=1)

    monkeypatch.setattr(components, "load_component_from_file", lambda path: pipeline)
    (tmp_path / "params.yaml").touch()
    runner._run_pipeline(tmp_path, tmp_path / "tasks", False, Journal(tmp_path, "cycle-0001"))
    assert [str(one.message) for one in recwarn] == ["a column is empty"]
