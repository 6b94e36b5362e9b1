"""The table of all benchmarks, from the files that they wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
UNTOLD = "not recorded"


class Row(NamedTuple):
    """One figure, what it is compared with in the same run, and how many times better it is."""

    figure: str
    value: str
    peer: str = ""
    ratio: str = ""


def page() -> str:
    """Return the page as Markdown."""
    return (HERE / "benchmarks.md").read_text(encoding="utf-8").replace("{table}", "\n".join(table()))


def table() -> Iterator[str]:
    """Yield the lines of the table: those of a result file stand together, below its command."""
    yield "| benchmark | figure | found | peer | ratio |"
    yield "|---|---|---|---|---|"
    for path in sorted(RESULTS.glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        about = _world(path.stem) if path.stem == "evolution" else results
        name = re.sub("_(second_log|memory|long)$", "", path.stem)
        command = results["command"] if name == "evolution_esci" else f"make bench NAME={name}"  # its data are not here
        machine = _of(about, "machine", "processor", "device")
        told = f"`{command}`, {_of(about, 'date')}, {machine}"
        for row in rows(path.stem, results):
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (told, *row)) + " |"
            told = ""


def rows(name: str, results: dict[str, Any]) -> list[Row]:
    """Return the rows of a result file; of one that nothing here tells, where it is."""
    return list(_TOLD[name](results)) if name in _TOLD else [Row(f"see `benchmarks/results/{name}.json`", "")]


def _of(results: dict[str, Any], *names: str) -> str:
    """Return what a file says under one of the names, itself or in its parts."""
    found = [
        part[name] for part in (results, *results.values()) if isinstance(part, dict) for name in names if name in part
    ]
    return ", ".join(sorted({str(one) for one in found})) or f"{names[0]} {UNTOLD}"


def _clicks(results: dict[str, Any]) -> Iterator[Row]:
    for line in results["results"]:
        for model in ("pbm", "ubm", "dbn"):
            serm, clax = (line[model][of]["seconds_an_iteration"] for of in ("serm", "clax"))
            figure = f"an iteration of {model.upper()} over {line['sessions']:,} simulated pages"
            yield Row(
                figure, f"{serm * 1000:.2f} ms", f"clax: {clax * 1000:.1f} ms", f"{line[model]['clax_over_serm']}"
            )


def _drift(results: dict[str, Any]) -> Iterator[Row]:
    for windows, found in results["a/a"].items():
        bounds = f"{found['alarm_low']:.1%} to {found['alarm_high']:.1%}"
        yield Row(
            f"false alarms, {windows}, simulated users", f"{found['alarm_rate']:.1%} ({bounds}) of {found['runs']}"
        )
    for shift, found in results.get("shifts", {}).items():
        yield Row(f"seen: {shift}, simulated users", f"{found['alarm_rate']:.0%} of {found['runs']}")


def _world(name: str) -> dict[str, Any]:
    """Return what the worlds of a benchmark, a file each, say of themselves."""
    files = (RESULTS / name).glob("*.json")
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def _evolution(results: dict[str, Any]) -> Iterator[Row]:
    for figure, found in results["summary"]["confirmed"].items():
        gained = "SERM's challenger over its champion" in figure
        if gained or (figure.startswith("pool") and "rolling served: SERM over" in figure):
            yield Row(f"{figure}, simulated users", found)


def _evolution_esci(results: dict[str, Any]) -> Iterator[Row]:
    for figure, found in results["summary"].items():
        if figure.startswith("rolling served"):
            yield Row(f"one cycle on ESCI's queries, {figure}, simulated users", found)


def _serving(results: dict[str, Any]) -> Iterator[Row]:
    peer = results["engine"].get("CrossEncoder.predict fp32", {}).get("pairs_per_second")
    for way, found in results["engine"].items():
        if not way.startswith("CrossEncoder"):
            beside = "" if peer is None else f"CrossEncoder.predict fp32: {peer}"
            yield Row(
                f"pairs scored a second, {way}",
                f"{found['pairs_per_second']}",
                beside,
                f"{found.get('times_cross_encoder_fp32', '')}",
            )
    alone = results["http"]["one request at a time"]
    for load, seen in results["http"]["batched"].items():
        one, ratio = alone[load], results["summary"][f"batches over HTTP, {load}"]["times_requests_per_second"]
        yield Row(f"HTTP, {load}", _load(seen), f"one request at a time: {_load(one)}", f"{ratio}")
    for load, seen in results["grpc"].items():
        yield Row(f"gRPC, {load}", _load(seen))


def _load(seen: dict[str, float]) -> str:
    return f"{seen['pairs_per_second']} pairs/s, p95 {seen['p95_ms']:,.0f} ms"


def _serving_memory(results: dict[str, Any]) -> Iterator[Row]:
    first, last = results["seen"][1], results["seen"][-1]
    grown = f"{first['megabytes']} MB after {first['after']:,} requests, {last['megabytes']} MB after {last['after']:,}"
    yield Row("the predictor's memory while new texts come", grown)


def _pipelines(results: dict[str, Any]) -> Iterator[Row]:
    for name, ran in results["pipelines"].items():
        yield Row(f"{name}, whole under kfp.local, users simulated", f"{ran['ended']}, {ran['seconds']} s")


def _init(results: dict[str, Any]) -> Iterator[Row]:
    for line in results["results"]:
        memory = max(part["peak_memory_mb"] for part in line["parts"].values())
        figure = f"serm init but training: {line['documents']:,} documents, {line['rows']:,} impressions, synthetic"
        yield Row(figure, f"{line['seconds']:.0f} s, {memory:,} MB")


def _interleaving(results: dict[str, Any]) -> Iterator[Row]:
    for effect, found in results["results"].items():
        one, ab = (found[name]["median_users"] for name in ("interleaved", "A/B"))
        yield Row(f"simulated users to tell {effect}", f"{one:,.0f}", f"A/B: {ab:,.0f}", f"{ab / one:.0f}")


def _judging(results: dict[str, Any]) -> Iterator[Row]:
    most = results["throughput"]["of_ideal_by_calls"]["12800"]
    yield Row("calls a second to a fake endpoint, of the ideal", f"{sorted(most)[len(most) // 2]:.1%}")
    yield Row("memory with 100,000 pairs queued", f"{results['memory']['peak_mb']} MB")
    for rule in ("dawid-skene", "unanimous"):
        found = results["labels"]["rules"][rule]
        figure = f"labels kept by {rule}, right by the hidden truth, simulated users"
        yield Row(figure, f"{found['accuracy']:.1%} (base {found['base_rate']:.1%})")


def _mining(results: dict[str, Any]) -> Iterator[Row]:
    for budget, found in results["budgets"].items():
        if isinstance(found, dict) and "all" in found:
            figure = f"pairs mined that are wrong, all agents, budget {int(budget):,}, simulated users"
            ours, random = (found[name]["wrong"] for name in ("all", "random"))
            yield Row(figure, f"{ours:.1%}", f"random shown pairs: {random:.1%}", f"{ours / random:.2f}")


def _mining_scale(results: dict[str, Any]) -> Iterator[Row]:
    for rows_read, found in results["rows"].items():
        figure = f"mine, scoring aside, {rows_read} impressions, synthetic"
        yield Row(figure, f"{found['seconds']:.0f} s, {found['peak_memory_mb']:,} MB")


def _rollout(results: dict[str, Any]) -> Iterator[Row]:
    for scenario, found in results["scenarios"].items():
        ends = ", ".join(f"{end.replace('_', ' ')} {share:.1%}" for end, share in sorted(found["ends"].items()))
        yield Row(
            f"rollout: {scenario}, {found['runs']:,} runs, simulated users", f"{ends}; {found['days']['median']:g} days"
        )


def _significance(results: dict[str, Any]) -> Iterator[Row]:
    for line in results["sizes"]:
        figure = f"paired randomisation test, {line['queries']:,} queries, {line['resamples']:,} resamples"
        serm, scipy = line["test_seconds"], line["scipy_test_seconds"]
        yield Row(figure, f"{serm} s", f"scipy: {scipy} s", f"{scipy / serm:.0f}")
        serm, scipy = line["interval_seconds"], line["scipy_interval_seconds"]
        yield Row(
            f"bootstrap interval, {line['queries']:,} queries", f"{serm} s", f"scipy: {scipy} s", f"{scipy / serm:.1f}"
        )


def _stream(results: dict[str, Any]) -> Iterator[Row]:
    for line in results["results"]:
        ours = line["serm"]["seconds"]
        figure = f"ingest, validate and count {line['rows']:,} impressions, synthetic"
        for peer in ("sql", "pandas"):
            if peer in line:
                theirs = line[peer]["seconds"]
                name = {"sql": "hand-written DuckDB SQL", "pandas": "pandas"}[peer]
                yield Row(
                    figure,
                    f"{ours} s, {line['serm']['peak_memory_mb']:,} MB",
                    f"{name}: {theirs} s",
                    f"{theirs / ours:.2f}",
                )


def _training(results: dict[str, Any]) -> Iterator[Row]:
    found = results["speed"]["contenders"]
    serm = found["serm"]
    for peer in (name for name in found if name.startswith("sentence")):
        ratio = f"{serm['pairs_per_second'] / found[peer]['pairs_per_second']:.2f}"
        yield Row(
            "pairs trained a second", f"{serm['pairs_per_second']}", f"{peer}: {found[peer]['pairs_per_second']}", ratio
        )
        yield Row("NDCG@10 of what it trained", f"{serm['ndcg_10']}", f"{peer}: {found[peer]['ndcg_10']}")
    esci = results["esci"]["ndcg_10"]
    yield Row(
        "NDCG@10 on ESCI, residual cross-encoder", f"{esci['residual cross-encoder']}", f"cosine: {esci['cosine']}"
    )


def _conformance(results: dict[str, Any]) -> Iterator[Row]:
    for name in ("predictor", "transformer"):
        asked, faults = (results["summary"][f"{name}: {what}"] for what in ("requests", "faults"))
        yield Row(f"{name}: schemathesis' requests from its description", f"{asked:,}, {len(faults)} faults left")


def _gpu(results: dict[str, Any]) -> Iterator[Row]:
    for name, of in results["ways"].items():
        speed = f"{of['trained_per_second']:,} pairs/s trained, {of['scored_per_second']:,} scored"
        yield Row(f"{name} ({results['summary']['card']})", speed, f"NDCG@10 {of['ndcg_10']}")


_TOLD: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "clicks": _clicks,
    "conformance": _conformance,
    "drift": _drift,
    "evolution": _evolution,
    "evolution_esci": _evolution_esci,
    "drift_second_log": _drift,
    "gpu": _gpu,
    "init": _init,
    "interleaving": _interleaving,
    "judging": _judging,
    "mining": _mining,
    "mining_scale": _mining_scale,
    "pipelines": _pipelines,
    "rollout": _rollout,
    "serving": _serving,
    "serving_long": _serving,
    "serving_memory": _serving_memory,
    "significance": _significance,
    "stream": _stream,
    "training": _training,
}
