"""Prometheus' side of monitoring: the exporter's gauges, and the alert rules under promtool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import report_history
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serm.errors import UserError
from serm.monitoring import exporter
from serm.settings.rollout import PrometheusSettings
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
        listening = [one.laddr.ip for one in psutil.Process(server.pid).connections() if one.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
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


def promtool(command: str, directory: Path) -> None:
    found = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no promtool here: `make install` brings Debian's; elsewhere take it from prometheus.io/download")
    done = subprocess.run([found, *command.split()], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check rules rules.yaml", "test rules rules_test.yaml"])
def test_promtool_is_content(command: str) -> None:
    promtool(command, MONITORING)


@pytest.mark.parametrize(
    ("page", "requests", "failed"),
    [("rollout.md", 540, 120), ("install-on-a-cluster.md", 600, 60)],  # 60 that the champion ranked instead
)
def test_the_queries_of_the_pages_tell_a_rollout_both_servers_apart(
    page: str, requests: int, failed: int, tmp_path: Path
) -> None:
    """An hour of the servers' and the transformer's own series: the champion's 90 requests a minute, the canary's 9."""
    text = (MONITORING.parent / "docs" / page).read_text(encoding="utf-8")
    (block,) = re.findall(
        r"```yaml\n(rollout:\n(?:  traffic: \w+\n)?(?:  traffic_options: .*\n)?  prometheus:.*?)```", text, re.DOTALL
    )
    asked = PrometheusSettings.model_validate(yaml.safe_load(block)["rollout"]["prometheus"])
    pods = {"relevance-predictor-1": 90, "relevance-cycle-0003-predictor-1": 9}
    series = {
        'serm_ranked_requests_total{ranked_by="champion"}': "0+90x120",
        'serm_ranked_requests_total{ranked_by="challenger"}': "0+9x120",
        "serm_ranked_by_champion_instead_total": "0+1x120",
        'serm_requests_dropped_total{pod="relevance-predictor-1",reason="late"}': "0+3x120",
        'serm_requests_dropped_total{pod="relevance-cycle-0003-predictor-1",reason="late"}': "0+2x120",
    }
    for pod, rate in pods.items():
        labels = f'stage="total",pod="{pod}"'
        series[f"serm_request_stage_seconds_count{{{labels}}}"] = f"0+{rate}x120"
        series[f'serm_request_stage_seconds_bucket{{{labels},le="+Inf"}}'] = f"0+{rate}x120"
    expected = {
        asked.requests: ({"champion": 5400, "challenger": requests}, "{}"),
        asked.errors: ({"champion": 180, "challenger": failed}, "{}"),
        asked.latency: ({"champion": 5400, "challenger": 540}, '{le="+Inf"}'),
    }
    wanted = [
        {
            "expr": getattr(query, side).replace("{experiment}", "cycle-0003").replace("{window}", "3600s"),
            "eval_time": "90m",
            "exp_samples": [{"labels": labels, "value": value}],
        }
        for query, (values, labels) in expected.items()
        for side, value in values.items()
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"tests": [{"interval": "1m", "input_series": given, "promql_expr_test": wanted}]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test rules test.yaml", tmp_path)
