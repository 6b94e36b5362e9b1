"""Which click model a log calls for: the one that best foretells pages which it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import ibis
import numpy as np
from numpy.typing import NDArray

from serm import entry_points
from serm.clicks.counts import ClickCounts
from serm.clicks.dbn import DynamicBayesianNetwork
from serm.clicks.model import ClickModel, Tally
from serm.clicks.pages import DEEPEST, Array, Pages, read_parts
from serm.clicks.pbm import PositionBasedModel
from serm.clicks.sdbn import SimplifiedDynamicBayesianNetwork
from serm.clicks.ubm import UserBrowsingModel
from serm.errors import UserError
from serm.settings import ClickSettings

#: Simplest first: of two that foretell alike, the first is chosen.
MODELS: dict[str, type[ClickModel]] = {
    "pbm": PositionBasedModel,
    "ubm": UserBrowsingModel,
    "sdbn": SimplifiedDynamicBayesianNetwork,
    "dbn": DynamicBayesianNetwork,
}


def known_models(settings: ClickSettings) -> dict[str, type[ClickModel]]:
    """Return SERM's click models by name, then those of other packages that ``settings.models`` names.

    Raises:
        UserError: one of those is not installed, has a name that is taken, cannot be imported, or is no ClickModel.
    """
    others = entry_points.load("serm.click_models", settings.models, MODELS, "clicks.models")
    for name, model in others.items():
        if not (isinstance(model, type) and issubclass(model, ClickModel)):
            package = entry_points.versions("serm.click_models", [name])[name]
            raise UserError(f"clicks.models: {name!r} of {package} is no subclass of serm.clicks.model.ClickModel.")
    return MODELS | others


_ESTIMATES = ("attractiveness", "standard_error", "relevance", "relevance_error")


@dataclass(frozen=True)
class Estimates:
    """What the chosen model says of each pair (arrays [pairs], see ``ClickModel``), and what the report shows."""

    attractiveness: Array
    standard_error: Array
    relevance: Array
    relevance_error: Array
    examined: Array
    """[pairs], how many impressions users examined (see ``ClickModel.examined``)."""
    summary: dict[str, Any]
    """model, name, held_out (the figures of all models tried), examination (by rank), prior (of attractiveness, as
    ones and zeros), log_likelihood, traces, converged; nan is null."""


def fit(numbered: ibis.Table, counts: ClickCounts, settings: ClickSettings) -> Estimates:
    """Choose the click model of a log by its held-out perplexity, and fit it to all of the log.

    A log of more than ``max_impressions`` is read in parts of whole queries. Its models are compared, and how its
    users browse is learnt, on the first part; then each part's pairs are fitted to it.

    Args:
        numbered: the rows of ``pages.number``; held by the engine, if they are read in parts.
        counts: of the same log.
        settings: the section clicks.
    """
    models = known_models(settings)
    first, last = (min(int(position), DEEPEST) for position in (counts.position.min(), counts.position.max()))
    parts = -(-int(counts.impressions.sum()) // settings.max_impressions)
    estimates = {name: np.full(counts.pairs, np.nan) for name in (*_ESTIMATES, "examined")}
    tallies: list[Tally] = []
    fitted: ClickModel | None = None
    for pages, held_out, log_pair in read_parts(numbered, parts, first, last):
        if fitted is None:
            candidates = compare(pages, held_out, settings)
            chosen = choose(candidates)
            learnt = fitted = models[chosen].fit(pages, settings)
        else:
            fitted = learnt.for_pairs_of(pages, settings)
        tallies.append(Tally.of(fitted, pages))
        for name in _ESTIMATES:
            estimates[name][log_pair] = getattr(fitted, name)
        estimates["examined"][log_pair] = fitted.examined(pages)
    tally = reduce(add, tallies)
    summary = {
        "model": chosen,
        "name": learnt.name,
        "held_out": {name: _figures(candidate) for name, candidate in candidates.items()},
        "examination": _known(tally.examination),
        "prior": learnt.prior._asdict(),
        "log_likelihood": float(tally.log_likelihood.sum()),
        "traces": [list(trace) for trace in learnt.traces],
        "converged": learnt.converged,
    }
    return Estimates(**estimates, summary=summary)


def compare(pages: Pages, held_out: NDArray[np.bool_], settings: ClickSettings) -> dict[str, Tally]:
    """Fit the models that the settings allow without the ``held_out`` pages, and let each foretell those."""
    models = known_models(settings)
    names = list(models) if settings.model == "auto" else [settings.model]
    if held_out.all() or not held_out.any():
        nothing = np.zeros(pages.last)
        return {name: Tally(nothing, nothing, nothing) for name in names}
    seen, unseen = pages.select(~held_out), pages.select(held_out)
    return {name: Tally.of(models[name].fit(seen, settings), unseen) for name in names}


def choose(candidates: dict[str, Tally]) -> str:
    """Return the model with the lowest perplexity; the first of equals."""
    return max(candidates, key=lambda name: candidates[name].log_likelihood.sum())


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "impressions": int(tally.shown.sum()),
        "log_likelihood": float(tally.log_likelihood.sum()),
        "perplexity": _known(np.array([tally.perplexity]))[0],
        "perplexity_by_rank": _known(tally.perplexity_by_rank),
    }


def _known(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
