"""The bars that a batch of labels must clear; one that it fails holds the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serm.settings.judging import TrustSettings


def failed(panel: Mapping[str, Any], llms: Mapping[str, Mapping[str, Any]], trust: TrustSettings) -> list[str]:
    """Return a sentence for each bar that is not cleared; none means that the labels may be used.

    Args:
        panel: ``gold.ratings`` of the panel's labels on the gold pairs.
        llms: by LLM judge, its ``canaries`` and ``repeats``.
        trust: the bars.
    """
    labelled = round(panel["pairs"] * panel["keep_rate"])
    found = []
    if labelled >= trust.min_gold_pairs:
        found += [
            _low("the panel's quadratic kappa on gold", panel["quadratic_kappa"], trust.min_kappa),
            _high("the share of gold that the panel over-rates", panel["over_rated"], trust.max_over_rated),
            _high("the share of gold that the panel under-rates", panel["under_rated"], trust.max_under_rated),
        ]
    elif llms:
        found.append(f"the panel labelled {labelled} gold pairs of at least {trust.min_gold_pairs}.")
    for name, checks in llms.items():
        share, same = checks["canaries"]["withstood"], checks["repeats"]["same"]
        found.append(_low(f"the share of canaries that {name} withstands", share, trust.min_canaries_withstood))
        found.append(_low(f"the share of repeated pairs that {name} grades as before", same, trust.min_repeated))
    return [sentence for sentence in found if sentence]


def _low(what: str, value: float | None, bar: float) -> str:
    return f"{what} is {value:.2f}, below {bar:.2f}." if value is not None and value < bar else ""


def _high(what: str, value: float | None, bar: float) -> str:
    return f"{what} is {value:.2f}, above {bar:.2f}." if value is not None and value > bar else ""
