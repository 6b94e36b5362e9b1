"""The loop as a picture: a station for each step and the champion, with one cycle's numbers on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from serm import steps as steps_table
from serm.report.formats import count, decimal, megabytes, seconds, share, signed
from serm.workspace.history import Cycle

#: The steps of a cycle, and those of a window in which nothing drifted; ``record`` is its ``publish``.
STEPS = (*steps_table.STEPS, steps_table.PUBLISH.name, steps_table.DEPLOY.name)
QUIET_STEPS = (*steps_table.WATCH, steps_table.RECORD.name)


@dataclass(frozen=True)
class Station:
    """A step of the loop: the figure it is known by, what that counts, a word more, and its cost."""

    name: str
    part: str
    """The part of the cycle's section that tells more; empty if none does."""
    cost: str
    figure: str | None
    unit: str
    detail: str = ""


def stations(cycle: Cycle) -> list[Station]:
    """Return the loop's stations from ingest to the champion; a figure that history lacks is None."""
    found = [Station(name, part, _cost(cycle, name), *told(cycle)) for name, (part, told) in _told().items()]
    if not cycle.quiet:
        return found
    idle = set(STEPS) - {*QUIET_STEPS, "publish"}
    return [Station(one.name, "", "", "–", "not run: quiet") if one.name in idle else one for one in found]


Told = tuple[str | None, str] | tuple[str | None, str, str]


def _told() -> dict[str, tuple[str, Callable[[Cycle], Told]]]:
    """Return for each station, in order, the part of the cycle's section that tells more, and what tells its figure.

    A step that has no entry of its own among ``_OWN`` says whether it has run.
    """
    steps = {name: _OWN.get(name, ("", functools.partial(_has_run, name))) for name in STEPS}
    return {**steps, "champion": _OWN["champion"]}


def _has_run(name: str, cycle: Cycle) -> Told:
    return ("done" if cycle.get(name) else None), ""


def _ingest(cycle: Cycle) -> Told:
    window = cycle.get("ingest")
    if not window:
        return None, "impressions"
    detail = f"{count(window['queries'])} queries, {len(window['locales'])} locales"
    return count(window["rows_kept"]), "impressions", detail


def _validate(cycle: Cycle) -> Told:
    datasets = cycle.get("validate", "datasets")
    if not datasets:
        return None, "rows in quarantine"
    rows = sum(one["rows_in"] for one in datasets.values())
    return count(sum(one["rows_quarantined"] for one in datasets.values())), "rows in quarantine", f"of {count(rows)}"


def _drift(cycle: Cycle) -> Told:
    new = cycle.get("drift", "new_query_share")
    return cycle.get("drift", "decision"), "decision", "" if new is None else f"{share(new)} of searches are new"


def _mine(cycle: Cycle) -> Told:
    cascade = cycle.get("mine", "cascade")
    if not cascade:
        return None, "pairs mined"
    return count(cascade["mined"]), "pairs mined", f"of {count(cascade['candidates'])} candidates"


def _annotate(cycle: Cycle) -> Told:
    kept, dropped = cycle.get("annotate", "kept"), cycle.get("annotate", "dropped")
    if kept is None or dropped is None:
        return None, "labels kept"
    if cycle.get("annotate", "held"):
        return count(kept), "labels kept", f"the batch was held; {count(dropped)} to review"
    rate = f"{share(kept / (kept + dropped))} of the mined; " if kept + dropped else ""
    return count(kept), "labels kept", f"{rate}{count(dropped)} to review"


def _train(cycle: Cycle) -> Told:
    pairs = cycle.get("train", "pairs")
    if not pairs:
        return None, "training pairs"
    return count(pairs["used"]), "training pairs", f"{count(pairs['new'])} of them new"


def _evaluate(cycle: Cycle) -> Told:
    unit = f"{cycle.gate_measure or 'NDCG'}, rolling set as served"
    rolling = headline(cycle)
    if rolling is None:
        return None, unit
    return signed(rolling["difference"]), unit, f"{signed(rolling['low'])} to {signed(rolling['high'])}"


def _publish(cycle: Cycle) -> Told:
    return cycle.tag if cycle.outcome else None, "git tag, bytes pinned by DVC"


def _deploy(cycle: Cycle) -> Told:
    percent = cycle.get("deploy", "traffic_percent")
    p95 = cycle.get("deploy", "variants", "challenger", "latency_ms", "p95")
    detail = "" if p95 is None else f"p95 {decimal(p95, 0)} ms here"
    return None if percent is None else f"{percent:g} %", "traffic, in the manifest", detail


def _champion(cycle: Cycle) -> Told:
    if cycle.quiet:
        return "stays", "serves the users"
    if cycle.gate is None:
        return None, "serves the users"
    version = cycle.get("evaluate", "versions", "challenger" if cycle.promoted else "champion")
    return "promoted" if cycle.promoted else "stays", "serves the users", f"version {version}" if version else ""


def headline(cycle: Cycle) -> dict[str, float] | None:
    """Return the gate measure over all that is served for the rolling set: means, difference, interval, p."""
    numbers: dict[str, float] | None = cycle.get(
        "evaluate", "sets", "rolling", "served", "all", "all", "measures", cycle.gate_measure or ""
    )
    return numbers


def steps(cycle: Cycle) -> tuple[str, ...]:
    """Return the steps that a cycle has."""
    return QUIET_STEPS if cycle.quiet else STEPS


def cost(cycle: Cycle) -> dict[str, float | None]:
    """Return what the loop's steps took: ``seconds`` in all, ``longest`` and ``peak_memory_mb``, null if unknown."""
    known = [figures for step in steps(cycle) if (figures := cycle.get("costs", step))]
    seconds_of, memory = ([figures[name] for figures in known] for name in ("seconds", "peak_memory_mb"))
    return {
        "seconds": sum(seconds_of) if known else None,
        "longest": max(seconds_of, default=None),
        "peak_memory_mb": max(memory, default=None),
    }


def _cost(cycle: Cycle, step: str) -> str:
    figures = cycle.get("costs", "record" if step == "publish" and cycle.quiet else step)
    return f"{seconds(figures.get('seconds'))}, {megabytes(figures.get('peak_memory_mb'))}" if figures else ""


_OWN: dict[str, tuple[str, Callable[[Cycle], Told]]] = {
    "ingest": ("window", _ingest),
    "validate": ("window", _validate),
    "drift": ("drift", _drift),
    "mine": ("mining", _mine),
    "annotate": ("panel", _annotate),
    "train": ("training", _train),
    "evaluate": ("gate", _evaluate),
    "publish": ("", _publish),
    "deploy": ("canary", _deploy),
    "champion": ("gate", _champion),
}
