"""The last published cycle as Prometheus gauges. It is read anew at each scrape, and holds nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serm.errors import UserError
from serm.workspace import history
from serm.workspace.history import Cycle
from serm.workspace.store import Workspace

DECISIONS = ("promote", "hold", "roll back", "inconclusive")


class CycleCollector(Collector):
    """Gauges of a workspace's last published cycle; what its history lacks has no gauge, and never a 0."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; ``serm_history_readable`` alone where there is no history to read."""
        readable = GaugeMetricFamily("serm_history_readable", "Whether the workspace's history can be read.")
        try:
            cycle = history.latest(self._workspace)
        except UserError:
            readable.add_metric([], 0)
            yield readable
            return
        readable.add_metric([], 1)
        yield readable
        yield from _published(self._workspace, cycle)
        for metric in (*_drift(cycle), *_data(cycle), *_panel(cycle), *_verdicts(cycle), *_costs(cycle)):
            if metric.samples:
                yield metric


def registry(workspace: Path) -> CollectorRegistry:
    """Return a registry of nothing but the workspace's gauges."""
    made = CollectorRegistry(auto_describe=False)
    made.register(CycleCollector(workspace))
    return made


def write(workspace: Path, path: Path) -> None:
    """Write the gauges for node_exporter's textfile collector to ``path`` (``*.prom``), atomically.

    Raises:
        UserError: the directory does not exist.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such directory; make it, or give node_exporter's textfile directory.")
    write_to_textfile(str(path), registry(workspace))


def serve(workspace: Path, port: int, host: str) -> None:
    """Serve the gauges on ``http://host:port/metrics`` until the process ends; port 0 is a free one, which is told.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        server, _ = start_http_server(port, host, registry(workspace))
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; give another one.") from error
    print(f"The gauges: http://{host}:{server.server_port}/metrics (Ctrl+C ends)", flush=True)
    while True:
        time.sleep(3600)


def _gauge(name: str, says: str, values: Mapping[Any, Any], labels: tuple[str, ...] = ()) -> Metric:
    """Return a gauge with a value for each tuple of labels; values that are None are left out."""
    gauge = GaugeMetricFamily(name, says, labels=labels)
    for of, value in values.items():
        if value is not None:
            gauge.add_metric(of, float(value))
    return gauge


def _published(workspace: Path, cycle: Cycle) -> Iterator[Metric]:
    yield _gauge("serm_cycle_number", "The last published cycle.", {(): int(cycle.tag.removeprefix("cycle-"))})
    try:
        repository = Workspace(workspace)
        seconds = repository.git("log", "-1", "--format=%ct", repository.tag(cycle.tag), "--")
    except UserError:  # a history without its git
        return
    yield _gauge("serm_cycle_published_timestamp_seconds", "When it was published.", {(): seconds})


def _drift(cycle: Cycle) -> Iterator[Metric]:
    decision = cycle.get("drift", "decision")
    yield _gauge(
        "serm_drift_alarm",
        "Whether the window drifted: 1 is evolve, 0 quiet.",
        {(): None if decision is None else decision == "evolve"},
    )
    tests = cycle.get("drift", "tests") or []
    for field, says in (
        ("adjusted_p", "The test's p, corrected for all tests (Holm)."),
        ("effect", "What of the test's statistic chance does not explain."),
        ("floor", "The effect from which on the test can alarm."),
    ):
        values = {(test["name"],): test[field] for test in tests}
        yield _gauge(f"serm_drift_test_{field}", says, values, ("test",))
    alarms = {(test["name"],): test["decision"] == "drift" for test in tests if test["decision"] != "not tested"}
    yield _gauge("serm_drift_test_alarm", "Whether the test found drift.", alarms, ("test",))
    yield _gauge(
        "serm_drift_new_query_ratio",
        "Share of searches for queries that the window before lacks, 0 to 1.",
        {(): cycle.get("drift", "new_query_share")},
    )


def _data(cycle: Cycle) -> Iterator[Metric]:
    datasets = cycle.get("validate", "datasets") or {}
    shares = {(name,): one["rows_quarantined"] / one["rows_in"] for name, one in datasets.items() if one["rows_in"]}
    yield _gauge("serm_quarantine_ratio", "Share of the rows in quarantine, 0 to 1.", shares, ("dataset",))
    rows = {(name,): one["rows_in"] for name, one in datasets.items()}
    yield _gauge("serm_rows", "Rows that validation read.", rows, ("dataset",))


def _panel(cycle: Cycle) -> Iterator[Metric]:
    in_use = cycle.get("annotate", "panels", "all judges", cycle.get("annotate", "agreement") or "") or {}
    for field, name, says in (
        ("quadratic_kappa", "kappa", "The panel's quadratic kappa on held-out judgments, -1 to 1."),
        ("accuracy", "accuracy_ratio", "The panel's accuracy on held-out judgments, 0 to 1."),
        ("base_rate", "base_rate_ratio", "Accuracy of always saying the commonest grade, 0 to 1."),
        ("keep_rate", "keep_ratio", "Share of the held-out pairs that the panel kept, 0 to 1."),
    ):
        yield _gauge(f"serm_panel_{name}", says, {(): in_use.get(field)})
    panel = cycle.get("annotate")
    yield _gauge(
        "serm_panel_held",
        "Whether the batch was held: none of its labels may be used.",
        {(): bool(panel.get("held")) if panel else None},
    )
    counts = {(name,): cycle.get("annotate", name) for name in ("kept", "dropped")}
    yield _gauge("serm_labels", "Pairs that the panel labelled, or left to a person.", counts, ("outcome",))


def _verdicts(cycle: Cycle) -> Iterator[Metric]:
    gate, decision = cycle.gate, cycle.get("deploy", "decision")
    results = {(result,): result == gate for result in history.GATES} if gate else {}
    yield _gauge("serm_gate", "The gate's result: error, failed, inconclusive or passed.", results, ("result",))
    made = {(one,): one == decision for one in dict.fromkeys((*DECISIONS, decision))} if decision else {}
    yield _gauge("serm_canary_decision", "What was decided on the canary.", made, ("decision",))
    percent = cycle.get("deploy", "traffic_percent")
    yield _gauge(
        "serm_canary_traffic_ratio",
        "The canary's share of the traffic, 0 to 1.",
        {(): None if percent is None else percent / 100},
    )


def _costs(cycle: Cycle) -> Iterator[Metric]:
    steps = cycle.get("costs") or {}
    seconds = {(step,): figures.get("seconds") for step, figures in steps.items()}
    yield _gauge("serm_step_seconds", "Wall time of a step.", seconds, ("step",))
    memory = {
        (step,): figures["peak_memory_mb"] * 2**20 for step, figures in steps.items() if "peak_memory_mb" in figures
    }
    yield _gauge("serm_step_peak_memory_bytes", "Peak memory of a step's process.", memory, ("step",))
    cost = cycle.get("costs", "annotate", "llm_cost")
    yield _gauge("serm_llm_cost", "What the LLM judges cost, in the currency of their prices.", {(): cost})
