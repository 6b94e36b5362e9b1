"""Whether the test sets can decide: what their queries would find, beside the margins that the gate holds them to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from serm.evaluation.compare import Comparison
from serm.evaluation.significance import deviation_of, effect_of, queries_needed
from serm.settings import EvaluationSettings

Test = tuple[str, str]
"""A set (rolling, frozen) and its documents (served, pool)."""
#: Rule of the gate -> the test set that it reads, and the setting that is its margin.
RULES: dict[str, tuple[Test, str]] = {
    "rolling_gain": (("rolling", "served"), "min_gain"),
    "frozen_loss": (("frozen", "served"), "max_frozen_loss"),
    "pool_loss": (("rolling", "pool"), "max_pool_loss"),
}


@dataclass(frozen=True)
class Power:
    """What the ``queries`` of a rule's test set find, if their differences have the standard ``deviation``.

    ``detectable`` is the smallest true difference that a two-sided test at ``alpha`` finds four times in five, None
    for fewer than two queries. A loss as small as the ``margin`` is told from none as well by ``needed`` queries, None
    where the margin is 0: then any difference that is found counts.
    """

    rule: str
    set: str
    documents: str
    queries: int
    margin: float
    deviation: float
    detectable: float | None
    needed: int | None

    @property
    def enough(self) -> bool:
        """Whether the queries find what is as large as the margin."""
        return self.needed is None or self.queries >= self.needed

    def told(self, of: str) -> str:
        """Return it as a sentence; ``of`` says whose deviation it is, such as ``assumed``."""
        found = "nothing" if self.detectable is None else f"a difference of {self.detectable:.4f} four times in five"
        sentence = (
            f"{self.rule}: {self.queries} queries of the {self.set} set ({self.documents}) find {found}, at a standard "
            f"deviation of {self.deviation:.3f} ({of})"
        )
        if self.needed is None:
            return f"{sentence}."
        return f"{sentence}; the margin {self.margin:g} needs {self.needed} queries."


def assumed(queries: Mapping[Test, int], settings: EvaluationSettings) -> list[Power]:
    """Return the power of each rule's test set by ``gate.assumed_deviation``, before anything is measured."""
    return [_power(rule, queries.get(test, 0), settings.gate.assumed_deviation, settings) for rule, test in _tests()]


def measured(compared: Mapping[Test, Comparison | None], settings: EvaluationSettings) -> list[Power]:
    """Return the power of each rule's test set by the deviation of the gate measure's differences on it.

    Rules whose set has no deviation, being of fewer than two queries, are left out.
    """
    found = []
    for rule, test in _tests():
        one = compared.get(test)
        if one is not None and isfinite(one.detectable):
            found.append(_power(rule, one.n, deviation_of(one.detectable, one.n, settings.alpha), settings))
    return found


def _tests() -> Iterable[tuple[str, Test]]:
    return ((rule, test) for rule, (test, _) in RULES.items())


def _power(rule: str, queries: int, deviation: float, settings: EvaluationSettings) -> Power:
    (name, documents), setting = RULES[rule]
    margin: float = abs(getattr(settings.gate, setting))
    detectable = effect_of(deviation, queries, settings.alpha)
    needed = queries_needed(deviation, margin, settings.alpha) if margin > 0 else None
    return Power(
        rule, name, documents, queries, margin, deviation, detectable if isfinite(detectable) else None, needed
    )
