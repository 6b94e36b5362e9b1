"""Prometheus' side of monitoring: the exporter's gauges, and the alert rules under promtool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import report_history
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serm.errors import UserError
from serm.monitoring import exporter
from serm.workspace import history

MONITORING = Path(__file__).parents[2] / "monitoring"


def gauges(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_history.write(tmp_path_factory.mktemp("monitoring") / "shop", 2)


def test_the_verb_serves_the_last_cycle(workspace: Path) -> None:
    verb = [sys.executable, "-c", "from serm.cli import main; main()", "metrics", "--port", "0"]
    server = subprocess.Popen([*verb, "--workspace", str(workspace)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        told = re.search(r":(\d+)/metrics", server.stdout.readline())
        assert told, "the exporter ended"
        with urllib.request.urlopen(f"http://127.0.0.1:{told[1]}/metrics") as answer:
            found = gauges(answer.read().decode())
    finally:
        server.terminate()
        server.wait()
    assert found["serm_history_readable",] == 1
    assert found["serm_cycle_number",] == 2
    assert found["serm_cycle_published_timestamp_seconds",] > 1.7e9
    assert found["serm_drift_alarm",] == 1
    assert found["serm_drift_test_alarm", "topics"] == 1
    assert found["serm_drift_test_alarm", "heavy users"] == 0
    assert ("serm_drift_test_alarm", "scores") not in found  # it was not tested
    assert found["serm_quarantine_ratio", "impressions"] == pytest.approx(69 / 270580)
    assert found["serm_panel_kappa",] == pytest.approx(0.8391)
    assert [found["serm_gate", result] for result in history.GATES] == [0, 0, 1, 0]
    assert found["serm_canary_decision", "hold"] == 1
    assert found["serm_canary_decision", "roll back"] == 0
    assert found["serm_labels", "kept"] + found["serm_labels", "dropped"] == 2500
    assert found["serm_step_seconds", "train"] > 0


def test_what_a_cycle_lacks_has_no_gauge(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(workspace, copy)
    for name in ("annotate", "evaluate", "deploy"):
        (copy / f"history/cycle-0002/{name}.json").unlink()
    exporter.write(copy, tmp_path / "serm.prom")
    names = {name for name, *_ in gauges((tmp_path / "serm.prom").read_text())}
    assert not {name for name in names if name.startswith(("serm_panel", "serm_gate", "serm_canary", "serm_labels"))}
    assert "serm_drift_alarm" in names


def test_no_history_is_told_and_not_a_healthy_zero(tmp_path: Path) -> None:
    exporter.write(tmp_path, tmp_path / "serm.prom")
    assert gauges((tmp_path / "serm.prom").read_text()) == {("serm_history_readable",): 0}


def test_a_directory_that_is_not_there_is_explained(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory; make it"):
        exporter.write(workspace, tmp_path / "none" / "serm.prom")


def test_the_operators_rules_are_the_rules() -> None:
    operator = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert operator["kind"] == "PrometheusRule"
    assert operator["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())


def test_each_alert_is_tested_to_fire_and_to_be_silent() -> None:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = [
        case
        for test in yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize("command", ["check rules rules.yaml", "test rules rules_test.yaml"])
def test_promtool_is_content(command: str) -> None:
    promtool = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not promtool:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no promtool here: `make install` brings Debian's; elsewhere take it from prometheus.io/download")
    done = subprocess.run([promtool, *command.split()], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
