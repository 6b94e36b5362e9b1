"""The evaluate step: both models rank both test sets, and the gate decides."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.evaluation import examples, pools
from serm.evaluation.calibration import Calibration, calibration
from serm.evaluation.compare import (
    ALL,
    NO_SHARED_TOKEN,
    SHARED_TOKEN,
    Compared,
    Comparison,
    SliceTest,
    as_json,
    numbered,
    per_query,
    slice_tests,
    slices,
)
from serm.evaluation.gate import Evidence, Rule, Trust, Verdict, decide
from serm.evaluation.overlap import share_token
from serm.settings import EvaluationSettings, Settings
from serm.step import Figures, step

if TYPE_CHECKING:
    from serm.relevance import Model, Scores
    from serm.serving.replay import Request

GOLDEN_DOCUMENTS = 50
"""Documents in a golden request: what a page or two of results have."""


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
    rankings: pa.Table
    """RANKINGS."""
    pairs: int


@step
def evaluate(
    champion: Path,
    trained: Path,
    annotated: Path,
    tests: Path,
    validated: Path,
    reference: Path,
    out: Path,
    settings: Settings,
) -> Figures:
    """Compare the challenger with the champion on the frozen and the rolling test set, and decide on it.

    A real KServe server loads the challenger meanwhile, and scores a golden batch before the challenger may pass.

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        trained: the train step's output; the challenger is ``trained/model``.
        annotated: the annotate step's output; ``panel.json`` says how its panel stood its trust bars.
        tests: holds ``frozen`` and ``rolling``, JUDGMENTS datasets: the judged pools of the test queries.
        validated: the validate step's output, with ``documents`` and ``impressions``.
        reference: IMPRESSIONS; a query that is searched for in them is an old one.
        out: becomes ``per_query/`` (PER_QUERY), ``rankings/`` (RANKINGS) and ``evaluation.json``: versions, number of
            pairs, ``retired`` (set -> pairs and queries left out, as their documents are gone), ``sets`` (set -> choice
            of pairs -> slice -> n and measures), ``calibration`` (set -> numbers), ``examples`` (wins and losses) and
            ``gate`` (result and rules, each with rule, result, reason, value, limit and slice).
        settings: uses the sections ``evaluation``, ``engine`` and ``cycle``.

    Raises:
        UserError: a dataset is missing, a test pair is there twice, no document of a set is in the catalogue, or a
            model's scores are not finite.
    """
    from serm import relevance
    from serm.serving import golden, server

    options = settings.evaluation
    with server.running({golden.NAME: trained / "model"}) as ready:
        judged = pools.read(tests, validated, reference, settings)
        pool = judged.pairs
        models = {"champion": relevance.load(champion), "challenger": relevance.load(trained / "model")}
        for name, model in models.items():
            pool = with_scores(pool, model, name)
        served = golden.check(ready, models["challenger"], golden_batch(pool, options))
    sets = {name: measured(pool.filter(pc.equal(pool["set"], name)), name, options) for name in pools.SETS}
    evidence = Evidence(
        **{name: one.compared[ALL].get("all", {}).get(options.gate_measure) for name, one in sets.items()},
        slices=[test for one in sets.values() for test in one.slices],
        calibration=sets["rolling"].calibration,
        trust=read_trust(annotated / "panel.json"),
        served=served,
        size_mb=sum(file.stat().st_size for file in (trained / "model").rglob("*") if file.is_file()) / 1e6,
    )
    verdict = decide(evidence, options)
    _write(out, sets, judged.retired, verdict, {name: model.version for name, model in models.items()}, options)
    retired = {f"{name}_retired": one.pairs for name, one in judged.retired.items()}
    return _figures(evidence, verdict) | {"pairs": pool.num_rows, **retired}


def golden_batch(pool: pa.Table, settings: EvaluationSettings) -> list[Request]:
    """Draw ``gate.golden_requests`` test queries by seed, each with at most ``GOLDEN_DOCUMENTS`` of its documents."""
    from serm.serving.replay import Request

    of: dict[tuple[str, str], list[str]] = {}
    for locale, query, text in _rows(pool, "locale", "query", "text"):
        of.setdefault((locale, query), []).append(text)

    def place(key: tuple[str, str]) -> str:
        return hashlib.sha256("\0".join((str(settings.seed), *key)).encode()).hexdigest()

    drawn = sorted(of, key=place)[: settings.gate.golden_requests]
    return [Request("golden", key[1], tuple(dict.fromkeys(of[key]))[:GOLDEN_DOCUMENTS]) for key in drawn]


def read_trust(path: Path) -> Trust | None:
    """Return what the annotate step says of its panel's bars, or None where ``path`` does not tell."""
    try:
        panel = json.loads(path.read_text(encoding="utf-8"))
        told = [panel[name] for name in ("held", "not_measured")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(isinstance(reasons, list) for reasons in told):
        return None
    return Trust(*([str(reason) for reason in reasons] for reasons in told))


def _write(
    out: Path,
    sets: dict[str, Measured],
    retired: dict[str, pools.Retired],
    verdict: Verdict,
    versions: dict[str, str],
    settings: EvaluationSettings,
) -> None:
    queries = pa.concat_tables(one.per_query for one in sets.values())
    ranked = pa.concat_tables(one.rankings for one in sets.values())
    of_all_pairs = queries.filter(pc.equal(queries["pairs"], ALL))
    with replace_directory(out) as beside:
        contracts.write(queries, beside / "per_query", contracts.PER_QUERY)
        contracts.write(ranked, beside / "rankings", contracts.RANKINGS)
        write_json(
            beside / "evaluation.json",
            {
                "versions": versions,
                "pairs": {name: one.pairs for name, one in sets.items()},
                "retired": {name: asdict(one) for name, one in retired.items()},
                "sets": {
                    name: {pairs: as_json(compared) for pairs, compared in one.compared.items()}
                    for name, one in sets.items()
                },
                "calibration": {name: _rounded(one.calibration) for name, one in sets.items()},
                "examples": examples.biggest(of_all_pairs, ranked, settings),
                "gate": {"result": verdict.result, "rules": [_rounded(rule) for rule in verdict.rules]},
            },
        )


def _figures(evidence: Evidence, verdict: Verdict) -> Figures:
    figures: Figures = {"gate": verdict.result}
    for result in ("failed", "inconclusive"):
        if named := [rule.rule for rule in verdict.rules if rule.result == result]:
            figures[result] = ", ".join(dict.fromkeys(named))
    for name in pools.SETS:
        comparison: Comparison | None = getattr(evidence, name)
        if comparison:
            figures[f"{name}_queries"] = comparison.n
            figures[f"{name}_gain"] = round(comparison.difference, 4)
            figures[f"{name}_p"] = round(comparison.p, 4)
    if evidence.served and np.isfinite(evidence.served.p95_ms):
        figures["served_p95_ms"] = round(evidence.served.p95_ms, 1)
    return figures


def measured(pool: pa.Table, name: str, settings: EvaluationSettings) -> Measured:
    """Measure both models on the test set ``name``, over all pairs and over those that share a token, or none.

    ``pool`` is rows of ``pools.read`` with both models' scores.
    """
    shared = pa.array([share_token(*pair) for pair in _rows(pool, "query", "text", "locale")], pa.bool_())
    choices = {ALL: pool, SHARED_TOKEN: pool.filter(shared), NO_SHARED_TOKEN: pool.filter(pc.invert(shared))}
    cut = {pairs: numbered(table) for pairs, table in choices.items()}
    tables = {pairs: per_query(one, name, pairs, settings) for pairs, one in cut.items()}
    whole = cut[ALL]
    distributions = {model: _distribution(whole.rows[f"{model}_distribution"]) for model in examples.MODELS}
    compared = {pairs: slices(table, settings) for pairs, table in tables.items()}
    return Measured(
        per_query=pa.concat_tables(tables.values()),
        compared=compared,
        calibration=(
            calibration(whole.number, whole.grade, distributions, settings) if whole.queries.num_rows else None
        ),
        slices=slice_tests(tables, compared, name, settings),
        rankings=examples.rankings(whole, name, settings),
        pairs=pool.num_rows,
    )


def with_scores(pool: pa.Table, model: Model, name: str) -> pa.Table:
    """Add the model's expected grades as column ``name``, and its grade distributions as ``<name>_distribution``.

    Each distinct pair is scored once.

    Raises:
        UserError: a score is not finite; ``name`` says which model's.
    """
    pairs = _rows(pool, "query", "text")
    distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    scores: Scores = model.score([query for query, _ in distinct], [text for _, text in distinct])
    if not (np.isfinite(scores.expected).all() and np.isfinite(scores.distribution).all()):
        raise UserError(f"The {name} gives scores that are not finite numbers; train it again.")
    row = np.array([distinct[pair] for pair in pairs], dtype=np.int64)
    distribution = scores.distribution[row]
    listed = pa.FixedSizeListArray.from_arrays(pa.array(distribution.ravel(), pa.float64()), len(contracts.Grade))
    return pool.append_column(name, pa.array(scores.expected[row])).append_column(f"{name}_distribution", listed)


def _distribution(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of grade distributions as an array, shape [n, 4]."""
    return column.combine_chunks().flatten().to_numpy().reshape(-1, len(contracts.Grade))  # type: ignore[no-any-return]


def _rounded(one: Calibration | Rule | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(one).items()}


def _rows(table: pa.Table, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))
