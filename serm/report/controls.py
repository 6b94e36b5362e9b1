"""The challenger beside its controls: what further training alone would have brought, in every cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serm.report.charts import Axis
from serm.report.comparison import CELL_WIDTH, TESTS, Cell, cell
from serm.report.formats import decimal, signed
from serm.workspace.history import Cycle

#: Controls that each cycle is expected to have, and what they learn from.
EXPECTED = {
    "replay": "as many passes over the earlier judgments and the anchors, no new label",
    "self-training": "as many passes over the same pairs, with the champion's own grades as labels",
}
NOT_TRAINED = "not trained in this cycle"


@dataclass(frozen=True)
class Less:
    """The challenger less a control, written."""

    difference: str
    interval: str
    p: str


@dataclass(frozen=True)
class ModelRow:
    """One model of a cycle: its mean on each of ``TESTS``, and how far it is from the champion."""

    name: str
    means: list[str | None]
    """Written; None where it was not measured."""
    gains: list[Cell | None]
    """Less the champion; the champion's own are None."""
    less: list[Less | None]
    """The challenger less this control; empty for the two models themselves."""


@dataclass(frozen=True)
class Controls:
    """The models of a cycle side by side, by the gate measure over all queries and pairs."""

    rows: list[ModelRow]
    zero: float
    reach: float
    """The axis of the gains ends at minus and plus this."""
    absent: list[str]
    """Names of the expected controls that were not trained."""
    sentence: str


def controls(cycle: Cycle) -> Controls | None:
    """Return champion, challenger and controls of ``cycle``, or None where it measured no challenger."""
    measure = cycle.gate_measure
    sets = [cycle.get("evaluate", "sets", *test, "all", "all") for test in TESTS]
    if measure is None or not any(sets):
        return None
    both = [one and (one["measures"][measure] | {"n": one["n"]}) for one in sets]
    trained: dict[str, Any] = cycle.get("evaluate", "controls") or {}
    less = {
        name: [cycle.get("evaluate", "controls", name, *test, measure) for test in TESTS]
        for name in [*(name for name in EXPECTED if name in trained), *sorted(set(trained) - set(EXPECTED))]
    }
    gains = {"challenger": both} | {name: [_gain(one) for one in of_all] for name, of_all in less.items()}
    ends = [abs(one[end]) for of_model in gains.values() for one in of_model if one for end in ("low", "high")]
    reach = max([0.005, *ends])
    horizontal = Axis(-reach, reach, 2, CELL_WIDTH - 2, reach)
    alpha = cycle.settings.evaluation.alpha if cycle.settings else 0.05
    drawn = {
        name: [one and cell(one["n"], one, one["p"], None, alpha, horizontal) for one in of_model]
        for name, of_model in gains.items()
    }
    rows = [
        ModelRow("champion", _means(both, "champion"), [None] * len(TESTS), []),
        ModelRow("challenger", _means(both, "challenger"), drawn["challenger"], []),
        *(
            ModelRow(name, _means(less[name], "control"), drawn[name], [_less(one) for one in less[name]])
            for name in less
        ),
    ]
    absent = [name for name in EXPECTED if name not in trained]
    return Controls(rows, horizontal.at(0), reach, absent, _sentence(measure, both[0], less))


def _gain(one: dict[str, Any] | None) -> dict[str, Any] | None:
    if not one:
        return None
    named = {"difference": "gain", "low": "gain_low", "high": "gain_high", "p": "gain_p"}
    return {"n": one["n"]} | {name: one[of] for name, of in named.items()}


def _means(of_tests: list[dict[str, Any] | None], model: str) -> list[str | None]:
    return [decimal(one[model]) if one else None for one in of_tests]


def _less(one: dict[str, Any] | None) -> Less | None:
    if not one:
        return None
    interval = f"({signed(one['low'])} to {signed(one['high'])})"
    return Less(signed(one["difference"]), interval, decimal(one["p"], 4))


def _told(name: str, one: dict[str, Any], gain: float) -> str:
    """Say of a control what it explains of the challenger's ``gain``, which is above 0."""
    over = f"{signed(one['difference'])} ({signed(one['low'])} to {signed(one['high'])}), p {decimal(one['p'], 4)}"
    if one["gain"] > 0:
        share = f"{signed(one['gain'])} ({one['gain'] / gain:.0%})"
        return f"{name} explains {share}, and over it the challenger gains {over}"
    harder = ", which is the harder peer" if one["gain_high"] < 0 else ""
    ends = f"it ends {signed(one['gain'])} beside the champion{harder}"
    return f"{name} explains nothing ({ends}), and over it the challenger gains {over}"


def _sentence(measure: str, challenger: dict[str, Any] | None, less: dict[str, list[Any]]) -> str:
    """Say how much of the challenger's gain on what is served for the rolling set the controls explain."""
    known = {name: of_tests[0] for name, of_tests in less.items() if of_tests[0]}
    if not challenger:
        return ""
    gain = challenger["difference"]
    start = f"Of the challenger's gain of {signed(gain)} in {measure} on what is served for the rolling set, "
    if not known:
        return f"{start}it is not known how much further training alone explains: no control was trained in this cycle."
    if gain <= 0:
        return f"The challenger does not gain in {measure} on what is served for the rolling set: nothing to explain."
    return f"{start}{'; '.join(_told(name, one, gain) for name, one in known.items())}."
