"""What the champion itself thinks of the pairs: f, MD and MU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serm.mining.disagreement import gap
from serm.mining.opinion import Thresholds
from serm.mining.uncertainty import entropy
from serm.settings import MiningSettings

if TYPE_CHECKING:
    from serm.relevance import RelevanceModel


def score(
    pairs: pa.Table, model: RelevanceModel, document_text: Callable[[str, str], str], settings: MiningSettings
) -> pa.Table:
    """Return ``pairs`` with score (f, 0 to 3), disagreement (MD, 0 to 3) and uncertainty (MU, 0 to ln 4).

    f is the log's own score (``logged``) where the champion served the pair, else the champion is asked.
    """
    expected, disagreement, uncertainty = np.zeros((3, pairs.num_rows))
    if pairs.num_rows:
        queries = pairs["query"].to_pylist()
        titles, bodies = pairs["title"].to_pylist(), pairs["body"].to_pylist()
        texts = [document_text(title, body) for title, body in zip(titles, bodies, strict=True)]
        scores = model.score(queries, texts)
        expected, uncertainty = scores.expected, entropy(scores.distribution)
        disagreement = gap(model.sample(queries, texts, settings.dropout_samples, settings.seed))
    columns = {
        "score": pc.coalesce(pairs["logged"].cast(pa.float64()), pa.array(expected, pa.float64())),
        "disagreement": pa.array(disagreement, pa.float64()),
        "uncertainty": pa.array(uncertainty, pa.float64()),
    }
    for name, column in columns.items():
        pairs = pairs.append_column(name, column)
    return pairs


def with_model_thresholds(scored: pa.Table, thresholds: Thresholds, settings: MiningSettings) -> Thresholds:
    """Return ``thresholds`` with tau_o, tau_md and tau_mu, the quantiles of f, MD and MU over all candidates.

    The scored pairs are a sample of the candidates with more suspects than fair, so each counts with its weight.
    """
    if not scored.num_rows:
        return thresholds
    weight = scored["weight"].to_numpy()

    def quantile(column: str, share: float) -> float:
        return float(np.quantile(scored[column].to_numpy(), share, weights=weight, method="inverted_cdf"))

    return replace(
        thresholds,
        over_scored_above=quantile("score", settings.over_scored_quantile),
        disagreement=quantile("disagreement", settings.disagreement_quantile),
        uncertainty=quantile("uncertainty", settings.uncertainty_quantile),
    )
