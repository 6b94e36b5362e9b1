"""The bars that a batch of labels must clear; one that it fails holds the whole batch, and none passes unmeasured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from serm.settings.judging import TrustSettings


@dataclass(frozen=True)
class Bars:
    """What the bars say of a batch, a sentence each; it has cleared them where there is none."""

    failed: list[str] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    """There was too little to tell by: nothing vouches for the labels, and nothing speaks against them."""

    def at_least(self, what: str, value: float | None, bar: float, lack: str) -> None:
        """Hold ``value`` to ``bar``; ``lack`` says why there is none."""
        self._hold(what, value, lack, below=bar)

    def at_most(self, what: str, value: float | None, bar: float, lack: str) -> None:
        """Hold ``value`` to ``bar``; ``lack`` says why there is none."""
        self._hold(what, value, lack, above=bar)

    def _hold(
        self, what: str, value: float | None, lack: str, below: float | None = None, above: float | None = None
    ) -> None:
        if value is None or not isfinite(value):
            self.not_measured.append(f"{what} is not known: {lack}.")
        elif below is not None and value < below:
            self.failed.append(f"{what} is {value:.2f}, below {below:.2f}.")
        elif above is not None and value > above:
            self.failed.append(f"{what} is {value:.2f}, above {above:.2f}.")


def check(panel: Mapping[str, Any], llms: Mapping[str, Mapping[str, Any]], trust: TrustSettings) -> Bars:
    """Hold a batch to its bars.

    Args:
        panel: ``gold.ratings`` of the panel's labels on the gold pairs.
        llms: by LLM judge, its ``canaries`` and ``repeats``: how many were ``asked`` and ``judged``, and what came out.
        trust: the bars. Canaries and repeats that it does not ask for are not missing; nor are repeats where the judge
            graded nothing before, as in the first cycle.
    """
    bars = Bars()
    if panel["labelled"] < trust.min_gold_pairs:
        bars.not_measured.append(
            f"the panel labelled {panel['labelled']} gold pairs of at least {trust.min_gold_pairs}."
        )
    else:
        one_grade = "labels and true grades of the gold pairs are all one grade"
        kappa, over, under = panel["quadratic_kappa"], panel["over_rated"], panel["under_rated"]
        bars.at_least("the panel's quadratic kappa on gold", kappa, trust.min_kappa, one_grade)
        bars.at_most("the share of gold that the panel over-rates", over, trust.max_over_rated, "nothing is labelled")
        bars.at_most(
            "the share of gold that the panel under-rates", under, trust.max_under_rated, "nothing is labelled"
        )
    for name, checks in llms.items():
        canaries, repeats = checks["canaries"], checks["repeats"]
        if trust.canaries:
            what, lack = f"the share of canaries that {name} withstands", _lack(canaries, "canaries")
            if not canaries["asked"]:
                lack = "no gold pair has grade 0 to plant one on; add seed judgments of grade 0, or set"
                lack += " judging.trust.canaries: 0"
            bars.at_least(what, None if lack else canaries["withstood"], trust.min_canaries_withstood, lack)
        if trust.repeats and repeats["asked"]:
            what, lack = f"the share of repeated pairs that {name} grades as before", _lack(repeats, "repeated pairs")
            bars.at_least(what, None if lack else repeats["same"], trust.min_repeated, lack)
    return bars


def _lack(checks: Mapping[str, Any], of: str) -> str:
    """Say that fewer than half of what was asked was judged, or return an empty string."""
    judged, asked = checks["judged"], checks["asked"]
    return f"it judged {judged} of {asked} {of}, fewer than half" if 2 * judged < asked or not judged else ""
