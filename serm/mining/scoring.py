"""What the champion itself thinks of the pairs: f, MD and MU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from serm.atomic import replace_file
from serm.errors import UserError
from serm.mining.disagreement import gap
from serm.mining.opinion import Thresholds
from serm.mining.uncertainty import entropy
from serm.settings import MiningSettings, Threshold

if TYPE_CHECKING:
    from serm.relevance import Model

#: Pairs that are scored, and kept against a crash, at a time.
PART = 4096
_SCORED = pa.schema([(name, pa.float64()) for name in ("score", "disagreement", "uncertainty")])


def score(
    pairs: pa.Table,
    model: Model,
    document_text: Callable[[str, str], str],
    settings: MiningSettings,
    finished: Path,
) -> pa.Table:
    """Return ``pairs`` with score (f, 0 to 3), disagreement (MD, 0 to 3) and uncertainty (MU, 0 to ln 4).

    f is the log's own score (``logged``) where the champion served the pair, else the champion is asked. Each part of
    the pairs is written to ``finished`` as soon as it is scored, and read from there when the step is run again.

    Args:
        pairs: query, title, body and logged.
        model: the champion.
        document_text: a document's title and body to the text that the model reads.
        settings: dropout_samples and seed are read.
        finished: a directory; its files are named by a hash of all that their content depends on.

    Raises:
        UserError: a score is not finite: no threshold could be held against it.
    """
    parts = range(0, pairs.num_rows, PART)
    done = [
        _score_part(pairs.slice(start, PART), model, document_text, settings, finished)
        for start in track(parts, "score", console=Console(stderr=True), transient=True, disable=len(parts) < 2)
    ]
    scored = pa.concat_tables(done) if done else _SCORED.empty_table()
    expected = pc.coalesce(pairs["logged"].cast(pa.float64()), scored["score"])
    pairs = pairs.append_column("score", expected)
    for name in ("disagreement", "uncertainty"):
        pairs = pairs.append_column(name, scored[name])
    return pairs


def _score_part(
    pairs: pa.Table,
    model: Model,
    document_text: Callable[[str, str], str],
    settings: MiningSettings,
    finished: Path,
) -> pa.Table:
    queries, titles, bodies = (pairs[name].to_pylist() for name in ("query", "title", "body"))
    texts = [document_text(title, body) for title, body in zip(titles, bodies, strict=True)]
    depends = [model.version, settings.dropout_samples, settings.seed, queries, texts]
    file = finished / f"{hashlib.sha256(json.dumps(depends).encode()).hexdigest()}.parquet"
    with suppress(OSError, pa.ArrowException):  # not there yet, or damaged: then it is scored, again
        return pq.read_table(file, schema=_SCORED)
    scores = model.score(queries, texts)
    disagreement = gap(model.sample(queries, texts, settings.dropout_samples, settings.seed))
    columns = (scores.expected, disagreement, entropy(scores.distribution))
    if not all(np.isfinite(column).all() for column in columns):
        raise UserError("The champion gives scores that are not finite numbers; train it again.")
    part = pa.Table.from_arrays([pa.array(column, pa.float64()) for column in columns], schema=_SCORED)
    with replace_file(file) as beside:
        pq.write_table(part, beside)
    return part


def with_model_thresholds(scored: pa.Table, thresholds: Thresholds, settings: MiningSettings) -> Thresholds:
    """Return ``thresholds`` with tau_c, tau_o, tau_md and tau_mu over all candidates' f, MD and MU.

    The scored pairs are a sample of the candidates with more suspects than fair, so each counts with its weight.
    """
    if not scored.num_rows:
        return thresholds
    weight = scored["weight"].to_numpy()

    def tau(column: str, threshold: Threshold) -> float:
        if threshold.value is not None:
            return threshold.value
        values = scored[column].to_numpy()
        return float(np.quantile(values, threshold.quantile or 0.0, weights=weight, method="inverted_cdf"))

    return replace(
        thresholds,
        under_scored_below=tau("score", settings.under_scored),
        over_scored_above=tau("score", settings.over_scored),
        disagreement=tau("disagreement", settings.disagreement),
        uncertainty=tau("uncertainty", settings.uncertainty),
    )
