"""Champion against challenger: trends over cycles, and each cycle's differences by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serm.report.charts import Axis, axis, columns
from serm.workspace.history import Cycle

#: The test sets (set, documents) and the pairs of evaluate.json, in the order and the words of the page.
TESTS = {
    ("rolling", "served"): "Rolling set, served",
    ("frozen", "served"): "Frozen set, served",
    ("rolling", "pool"): "Rolling set, pool",
    ("frozen", "pool"): "Frozen set, pool",
}
#: Those of a frozen set that is to be the next one; most cycles have none.
NEXT = {("next", "served"): "Next frozen set, served", ("next", "pool"): "Next frozen set, pool"}
#: Those that the gate decides on.
DECIDING = [test for test in TESTS if test[1] == "served"]
PAIRS = {"all": "All pairs", "no shared token": "Pairs that share no token"}
WIDTH, HEIGHT = 200, 150


@dataclass(frozen=True)
class Mark:
    """A mean and its interval in pixels, and what it says."""

    x: float
    y: float
    top: float
    bottom: float
    passed: bool
    says: str


@dataclass(frozen=True)
class ChartPanel:
    """The trend of one slice; a cycle that lacks the slice has no mark."""

    name: str
    n: int
    champion: list[Mark]
    challenger: list[Mark]


@dataclass(frozen=True)
class Row:
    """One slice of one cycle, as evaluate.json has it."""

    cycle: str
    slice: str
    n: int
    numbers: dict[str, float]


@dataclass(frozen=True)
class Grid:
    """The trends of all slices over one choice of pairs, on one vertical axis."""

    title: str
    vertical: Axis
    labels: list[tuple[float, str]]
    panels: list[ChartPanel]
    rows: list[Row]


@dataclass(frozen=True)
class View:
    """All trends of one measure on one test set, named as in ``TESTS``."""

    measure: str
    test: str
    grids: list[Grid]


def label(part: str) -> str:
    """Return a slice's name for people: ``family:Romance`` is Romance, ``traffic:head`` is head queries."""
    kind, _, value = part.partition(":")
    return "All queries" if part == "all" else _KINDS.get(kind, "{}").format(value)


#: Kind of slice -> how one is called; what is short for a query or a document says so.
_KINDS = {"family": "{}", "locale": "{}", "traffic": "{} queries", "query_age": "{} queries"}
_KINDS |= {"document_age": "{} documents"}


def views(cycles: Sequence[Cycle]) -> list[View]:
    """Return a view for each measure and test set that some cycle has; of pools, over all pairs and queries only."""
    measures = dict.fromkeys(measure for cycle in cycles for measure in cycle.measures)
    found = [
        View(measure, title, [grid for pairs in _pairs(test) if (grid := _grid(cycles, measure, test, pairs))])
        for measure in measures
        for test, title in (TESTS | NEXT).items()
    ]
    return [view for view in found if view.grids]


def _pairs(test: tuple[str, str]) -> list[str]:
    return [*PAIRS] if test in DECIDING else ["all"]


def _grid(cycles: Sequence[Cycle], measure: str, test: tuple[str, str], pairs: str) -> Grid | None:
    families = [family for cycle in cycles for family in cycle.families if test in DECIDING]
    slices = list(dict.fromkeys(["all", *families]))
    rows = [
        Row(cycle.tag, part, entry["n"], entry["measures"][measure])
        for part in slices
        for cycle in cycles
        if (entry := cycle.get("evaluate", "sets", *test, pairs, part)) and measure in entry["measures"]
    ]
    if not rows:
        return None
    ends = [row.numbers[f"{model}_{end}"] for row in rows for model in _MODELS for end in ("low", "high")]
    vertical = axis(ends, HEIGHT - 20, 8)
    xs = dict(zip((cycle.tag for cycle in cycles), columns(len(cycles), 34, WIDTH), strict=True))
    passed = {cycle.tag: cycle.gate == "passed" for cycle in cycles}
    panels = []
    for part in slices:
        mine = [row for row in rows if row.slice == part]
        if mine:
            panels.append(
                ChartPanel(
                    part, mine[-1].n, *(_marks(mine, model, vertical, xs, passed, len(cycles)) for model in _MODELS)
                )
            )
    every = -(-len(cycles) // 6)
    labels = [(x, str(int(tag.split("-")[1]))) for tag, x in list(xs.items())[::-1][::every]]
    return Grid(PAIRS[pairs], vertical, labels, panels, rows)


#: Model -> which way its marks stand aside, so that two intervals of one cycle do not hide each other.
_MODELS = {"champion": -1, "challenger": 1}


def _marks(
    rows: Sequence[Row], model: str, vertical: Axis, xs: dict[str, float], passed: dict[str, bool], cycles: int
) -> list[Mark]:
    aside = _MODELS[model] * min(6.0, 60 / cycles)
    return [
        Mark(
            round(xs[row.cycle] + aside, 1),
            vertical.at(row.numbers[model]),
            vertical.at(row.numbers[f"{model}_high"]),
            vertical.at(row.numbers[f"{model}_low"]),
            passed[row.cycle],
            f"{row.cycle}, {model}: {row.numbers[model]:.3f} "
            f"({row.numbers[f'{model}_low']:.3f} to {row.numbers[f'{model}_high']:.3f})",
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Cell:
    """A difference over ``n`` queries and its interval, in numbers and pixels; it tells better, worse or unclear.

    ``p`` is Holm's, None for a slice too small to be tested.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float | None
    detectable: float | None
    left: float
    middle: float
    right: float
    tells: str


@dataclass(frozen=True)
class Forest:
    """Differences by slice (rows) and by set and pairs (columns), on one horizontal axis, over what is served."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell | None]]]
    zero: float
    reach: float
    """The axis ends at minus and plus this difference."""
    alpha: float


CELL_WIDTH = 120


def forest(cycle: Cycle, slices: Sequence[str]) -> Forest | None:
    """Return the differences of ``cycle``'s gate measure, or None where it has none of ``slices``."""
    measure = cycle.gate_measure
    found: dict[str, list[dict[str, Any] | None]] = {
        part: [cycle.get("evaluate", "sets", *test, pairs, part) for test in DECIDING for pairs in PAIRS]
        for part in slices
    }
    found = {part: entries for part, entries in found.items() if any(entries)}
    if not found or measure is None:
        return None
    numbers = [entry["measures"][measure] for entries in found.values() for entry in entries if entry]
    reach = max([0.005, *(abs(one[end]) for one in numbers for end in ("low", "high"))])
    alpha = cycle.settings.evaluation.alpha if cycle.settings else 0.05
    horizontal = Axis(-reach, reach, 2, CELL_WIDTH - 2, reach)
    return Forest(
        [(TESTS[test], PAIRS[pairs]) for test in DECIDING for pairs in PAIRS],
        [(part, [_cell(entry, measure, alpha, horizontal) for entry in entries]) for part, entries in found.items()],
        horizontal.at(0),
        reach,
        alpha,
    )


def _cell(entry: dict[str, Any] | None, measure: str, alpha: float, horizontal: Axis) -> Cell | None:
    if entry is None:
        return None
    numbers = entry["measures"][measure]
    return cell(entry["n"], numbers, numbers.get("p_holm"), numbers.get("detectable"), alpha, horizontal)


def cell(
    n: int, numbers: dict[str, Any], p: float | None, detectable: float | None, alpha: float, horizontal: Axis
) -> Cell:
    """Return the cell of the ``difference`` and its interval ``low`` to ``high`` in ``numbers``."""
    difference, low, high = (numbers[name] for name in ("difference", "low", "high"))
    tells = "unclear" if p is None or p >= alpha else "better" if difference > 0 else "worse"
    left, middle, right = (horizontal.at(value) for value in (low, difference, high))
    return Cell(n, difference, low, high, p, detectable, left, middle, right, tells)


def groups(cycle: Cycle) -> list[tuple[str, list[str]]]:
    """Return the slices of a cycle in groups: families, locales, and what is known of queries and documents."""
    measured = [cycle.get("evaluate", "sets", *test, pairs) or {} for test in DECIDING for pairs in PAIRS]
    names = sorted({part for slices in measured for part in slices} - {"all"})
    kinds = {kind: [name for name in names if name.startswith(f"{kind}:")] for kind in _KINDS}
    return [
        ("Language families", ["all", *cycle.families]),
        ("Locales", kinds["locale"]),
        ("Traffic and age", [*kinds["traffic"], *kinds["query_age"], *kinds["document_age"]]),
    ]
