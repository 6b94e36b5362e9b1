"""What a challenger still knows: both models on seed queries that neither trained on, over all and by locale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serm.evaluation.measures import ndcg
from serm.evaluation.significance import bootstrap_interval
from serm.relevance import Scorer
from serm.training.examples import Examples

CUTOFF, RESAMPLES, CONFIDENCE = 10, 2000, 0.95


def remembered(champion: Scorer, challenger: Scorer, examples: Examples) -> dict[str, Any]:
    """Return what both models make of held-out seed ``examples``.

    Returns:
        ``pairs``, ``queries``, and for ``champion`` and ``challenger`` the mean ``loss`` (negative log-likelihood of
        the grades, a pair each) and ``ndcg_10`` (a query each); ``ndcg_10_difference``, challenger minus champion, with
        its 95 % bootstrap interval over queries; ``by_locale``, the first four for each locale. No measures where there
        are no examples.
    """
    if not len(examples):
        return {"pairs": 0, "queries": 0, "champion": {}, "challenger": {}, "by_locale": {}}
    groups = examples.groups()
    first = np.unique(groups, return_index=True)[1]
    models = {"champion": champion, "challenger": challenger}
    looked = {name: _look(model, examples, groups) for name, model in models.items()}
    locales = examples.locales.astype(str)

    def measured(rows: NDArray[np.bool_]) -> dict[str, Any]:
        queries = rows[first]
        means = {
            name: {"loss": round(float(loss[rows].mean()), 4), "ndcg_10": round(float(gain[queries].mean()), 4)}
            for name, (loss, gain) in looked.items()
        }
        return {"pairs": int(rows.sum()), "queries": int(queries.sum()), **means}

    difference = looked["challenger"][1] - looked["champion"][1]
    low, high = bootstrap_interval(difference[:, None], RESAMPLES, CONFIDENCE, seed=0)
    return {
        **measured(np.ones(len(examples), bool)),
        "ndcg_10_difference": {
            "mean": round(float(difference.mean()), 4),
            "low": round(float(low[0]), 4),
            "high": round(float(high[0]), 4),
        },
        "by_locale": {locale: measured(locales == locale) for locale in np.unique(locales).tolist()},
    }


def _look(
    model: Scorer, examples: Examples, groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the loss of each pair and NDCG@10 of each query."""
    scores = model.score(*examples.texts())
    losses = -np.log(scores.distribution[np.arange(len(examples)), examples.grades].clip(1e-12))
    return losses, ndcg(groups, examples.grades, scores.expected, (CUTOFF,), seed=0)[:, 0]
