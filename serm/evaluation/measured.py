"""What both models made of one test set: every measure by query and slice, calibration and rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts
from serm.evaluation import examples
from serm.evaluation.calibration import Calibration, calibration
from serm.evaluation.compare import (
    ALL,
    KINDS,
    NO_SHARED_TOKEN,
    SHARED_TOKEN,
    Compared,
    SliceTest,
    numbered,
    per_query,
    slice_tests,
    slices,
)
from serm.evaluation.controls import LessControl, less_controls
from serm.evaluation.overlap import share_token
from serm.pairs.test_sets import SERVED
from serm.settings import EvaluationSettings


@dataclass(frozen=True)
class Measured:
    """What both models made of one test set."""

    per_query: pa.Table
    """PER_QUERY, of every choice of pairs."""
    compared: dict[str, Compared]
    """Choice of pairs -> slice -> measure -> comparison."""
    calibration: Calibration | None
    """None without a query that can be ranked wrongly."""
    slices: list[SliceTest]
    """Of what is served; a pool is not tested by slice, and compared by language family only."""
    rankings: pa.Table
    """RANKINGS."""
    less_controls: dict[str, dict[str, LessControl]]
    """Control -> measure -> the challenger less the control, over all pairs and queries."""
    pairs: int


def measured(
    pool: pa.Table, test: tuple[str, str], settings: EvaluationSettings, controls: Sequence[str] = ()
) -> Measured:
    """Measure both models on a test set, over all pairs and over those that share a token, or none.

    ``test`` is the set and its documents, such as ``("rolling", "served")``; ``pool`` is its rows of
    ``pools.read_pools`` with both models' scores (``with_scores``), and those of the ``controls``.
    """
    columns = (pool[column].to_pylist() for column in ("query", "text", "locale"))
    shared = pa.array([share_token(*pair) for pair in zip(*columns, strict=True)], pa.bool_())
    choices = {ALL: pool, SHARED_TOKEN: pool.filter(shared), NO_SHARED_TOKEN: pool.filter(pc.invert(shared))}
    cut = {pairs: numbered(table) for pairs, table in choices.items()}
    tables = {pairs: per_query(one, test, pairs, settings) for pairs, one in cut.items()}
    whole = cut[ALL]
    distributions = {model: _distribution(whole.rows[f"{model}_distribution"]) for model in examples.MODELS}
    kinds = KINDS if test[1] == SERVED else ("family",)
    compared = {pairs: slices(table, settings, kinds) for pairs, table in tables.items()}
    return Measured(
        per_query=pa.concat_tables(tables.values()),
        compared=compared,
        calibration=(
            calibration(whole.number, whole.grade, distributions, settings) if whole.queries.num_rows else None
        ),
        slices=slice_tests(tables, compared, test[0], settings) if test[1] == SERVED else [],
        rankings=examples.rankings(whole, test, settings),
        less_controls=less_controls(whole, controls, settings),
        pairs=pool.num_rows,
    )


def with_scores(
    pool: pa.Table, name: str, expected: NDArray[np.float64], distribution: NDArray[np.float64]
) -> pa.Table:
    """Add a model's expected grades [n] as column ``name``, and its distributions [n, 4] as ``<name>_distribution``."""
    listed = pa.FixedSizeListArray.from_arrays(pa.array(distribution.ravel(), pa.float64()), len(contracts.Grade))
    return pool.append_column(name, pa.array(expected)).append_column(f"{name}_distribution", listed)


def _distribution(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of grade distributions as an array, shape [n, 4]."""
    return column.combine_chunks().flatten().to_numpy().reshape(-1, len(contracts.Grade))  # type: ignore[no-any-return]
