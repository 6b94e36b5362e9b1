"""What the gate saw of one cycle: its rules, all measures, and the queries that won and lost most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serm.report.formats import count, decimal, signed
from serm.workspace.history import GATES, Cycle

#: Rule -> its name on the page, and how its value and limit are written.
RULES = {
    "test_judgments": ("who judged the test sets", "{:g}"),
    "rolling_gain": ("gain on the rolling set, served", "{:+.4f}"),
    "frozen_loss": ("loss on the frozen set, served, at worst", "{:.4f}"),
    "pool_loss": ("loss on the rolling set, pool, at worst", "{:.4f}"),
    "slice_loss": ("loss on a slice, served", "{:.4f}"),
    "calibration_loss": ("calibration loss, at worst", "{:.4f}"),
    "panel_trust": ("trust in the panel", "{:.0f} bars missed"),
    "model_size": ("size of the model", "{:,.1f} MB"),
    "serving": ("served as computed", "{:.4f} grades"),
}
#: Source of a test judgment -> who made it.
JUDGED_BY = {"human": "people", "panel": "a panel"}
#: Measures of a query whose means go by a name of their own.
MEANS = {"AP": "MAP", "RR": "MRR"}


@dataclass(frozen=True)
class GateRow:
    """A rule as the page's table has it; an empty text is nothing to tell."""

    name: str
    result: str
    value: str
    limit: str
    slice: str
    reason: str


def rules(cycle: Cycle) -> list[GateRow]:
    """Return the gate's rules: who judged the test sets, where a panel did, then the worst first."""
    found = []
    for one in cycle.get("evaluate", "gate", "rules") or []:
        name, form = RULES.get(one["rule"], (one["rule"].replace("_", " "), "{:g}"))
        found.append(
            GateRow(
                name,
                one["result"],
                _written(one["value"], form),
                _written(one["limit"], form.replace("+", "")),
                one["slice"] or "",
                one["reason"],
            )
        )
    makers = RULES["test_judgments"][0]
    return sorted(found, key=lambda rule: (rule.name != makers, GATES.index(rule.result)))


def test_sets(cycle: Cycle) -> list[str]:
    """Say of each test set of which cycles its queries are, and who judged what is served for them."""
    told = []
    for name, of in (cycle.get("evaluate", "tests") or {}).items():
        queries = ", ".join(f"{count(number)} of cycle {drawn}" for drawn, number in of["queries"].items())
        pairs = ", ".join(
            f"{count(number)} by {JUDGED_BY.get(source, source)}" for source, number in of["pairs"].items()
        )
        version = of.get("version") or {}
        which = f" (version {count(version['version'])}, since {version['since']})" if version else ""
        also = "; it replaces the frozen set after this cycle" if name == "next" else ""
        told.append(f"{name} set{which}: {queries or 'no'} queries; served pairs judged: {pairs or 'none'}{also}")
    return told


@dataclass(frozen=True)
class Measure:
    """A measure over all queries of a test set, written."""

    name: str
    champion: str
    challenger: str
    difference: str
    interval: str
    p: str
    detectable: str


def measures(cycle: Cycle, test: tuple[str, str]) -> list[Measure]:
    """Return all measures over all queries and pairs of a test set (set, documents), and the calibration error."""
    found: dict[str, dict[str, Any]] = cycle.get("evaluate", "sets", *test, "all", "all", "measures") or {}
    order = [*cycle.measures, *(name for name in found if name not in cycle.measures)]
    rows = [_measure(MEANS.get(name, name), found[name]) for name in order if name in found]
    calibration = cycle.get("evaluate", "calibration", *test)
    if calibration:
        rows.append(_measure("calibration error (less is better)", calibration))
    return rows


def queries(cycle: Cycle, test: tuple[str, str]) -> str:
    """Return how many queries a test set (set, documents) has."""
    return count(cycle.get("evaluate", "sets", *test, "all", "all", "n"))


@dataclass(frozen=True)
class PowerRow:
    """What a rule's test set finds, by the deviation that was assumed or measured, written."""

    name: str
    of: str
    queries: str
    deviation: str
    detectable: str
    margin: str
    needed: str
    enough: bool


def power(cycle: Cycle) -> list[PowerRow]:
    """Return for each rule that reads a test set what its queries find, as assumed before and as measured."""
    found: dict[str, list[dict[str, Any]]] = cycle.get("evaluate", "power") or {}
    return [
        PowerRow(
            RULES.get(one["rule"], (one["rule"].replace("_", " "), ""))[0].removesuffix(", at worst"),
            of,
            count(one["queries"]),
            decimal(one["deviation"]),
            "" if one["detectable"] is None else decimal(one["detectable"], 4),
            f"{one['margin']:g}",
            "" if one["needed"] is None else count(one["needed"]),
            one["needed"] is None or one["queries"] >= one["needed"],
        )
        for rule in dict.fromkeys(one["rule"] for rows in found.values() for one in rows)
        for of, rows in found.items()
        for one in rows
        if one["rule"] == rule
    ]


def _measure(name: str, numbers: dict[str, Any]) -> Measure:
    return Measure(
        name,
        decimal(numbers["champion"]),
        decimal(numbers["challenger"]),
        signed(numbers["difference"]),
        f"{signed(numbers['low'])} to {signed(numbers['high'])}",
        decimal(numbers["p"], 4) if "p" in numbers else "",
        decimal(numbers["detectable"]) if numbers.get("detectable") is not None else "",
    )


def _written(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value).replace("-", "−")
