"""The evaluate step: the models rank the test sets, a server tries the challenger, and the gate decides."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.evaluation import examples, makers, plots, pools, power
from serm.evaluation.calibration import Calibration
from serm.evaluation.compare import ALL, Comparison, as_json, numbered
from serm.evaluation.controls import LessControl, column
from serm.evaluation.gate import WORST_FIRST, Answers, GateInputs, Rule, Trust, Verdict, decide
from serm.evaluation.measured import Measured, measured, with_scores
from serm.evaluation.power import Power
from serm.pairs.test_sets import POOL, SERVED, SETS
from serm.settings import EvaluationSettings, Settings
from serm.step import Figures, step

if TYPE_CHECKING:
    from serm.relevance import Scorer
    from serm.serving.trial import Trial

_LOG = logging.getLogger(__name__)


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

    What is served for a test query decides; its pool is guarded by a margin. Before it scores, the step says whether
    the sets are large enough for the gate's margins, and again after. Meanwhile the server that KServe runs loads the
    challenger here, and scores a golden batch with it.

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        trained: the train step's output; the challenger is ``trained/model``, and each directory of
            ``trained/controls`` a control, which is measured beside it and never decides.
        annotated: the annotate step's output; ``annotate.json`` says how its panel stood its trust bars.
        tests: the test sets, as ``serm.pairs.test_sets`` says.
        validated: the validate step's output, with ``documents`` and ``impressions``.
        reference: IMPRESSIONS; a query that is searched for in them is an old one.
        out: becomes ``per_query/`` (PER_QUERY), ``rankings/`` (RANKINGS) and ``evaluate.json``: versions, number of
            pairs, ``retired`` (set -> documents -> pairs and queries left out, as their documents are gone), ``sets``
            (set -> documents -> choice of pairs -> slice -> n and measures), ``calibration`` (set -> documents ->
            numbers), ``controls`` (name -> set -> documents -> measure -> the challenger less the control, over all
            pairs and queries), ``power`` (assumed and measured: what each rule's queries find, and how many it needs),
            ``examples`` (wins and losses among what is served) and ``gate`` (result and rules, each with rule, result,
            reason, value, limit and slice); ``metrics.json`` and ``slices.json`` are for ``dvc metrics`` and
            ``dvc plots``.
        settings: uses the sections ``evaluation``, ``relevance``, ``engine`` and ``cycle``.

    Raises:
        UserError: a dataset is missing, a test pair is there twice, no document of a set is in the catalogue, or a
            model's scores are not finite.
    """
    from serm import relevance
    from serm.serving import server, trial

    options = settings.evaluation
    with server.running({trial.NAME: trained / "model"}) as ready:
        judged = pools.read_pools(tests, validated, reference, settings)
        assumed = _assumed(judged, options)
        kept = settings.relevance
        models = {"champion": relevance.load(champion, kept), "challenger": relevance.load(trained / "model", kept)}
        controls = {path.name: relevance.load(path, kept) for path in _controls(trained)}
        pool = scored(judged.pairs, models | {column(name): model for name, model in controls.items()})
        batch = trial.batch(
            pool.filter(pc.equal(pool["documents"], SERVED)), options.gate.golden_requests, options.seed
        )
        tried = trial.check(ready, models["challenger"], batch)
    sets = {test: measured(pools.rows_of(pool, *test), test, options, [*controls]) for test in judged.retired}
    compared = {test: one.compared[ALL].get("all", {}).get(options.gate_measure) for test, one in sets.items()}
    found = power.measured(compared, options)
    _tell(found, "measured")
    deciding = {name: sets[name, SERVED] for name in SETS}
    inputs = GateInputs(
        **{name: compared[name, SERVED] for name in SETS},
        pool=compared["rolling", POOL],
        slices=[test for one in deciding.values() for test in one.slices],
        calibration=deciding["rolling"].calibration,
        trust=read_trust(annotated / "annotate.json"),
        answers=_answers(tried),
        size_mb=sum(file.stat().st_size for file in (trained / "model").rglob("*") if file.is_file()) / 1e6,
    )
    verdict = decide(inputs, options)
    told = makers.told(tests)
    rules = [*([Rule("test_judgments", "passed", told)] if told else []), *verdict.rules]
    _write(
        out,
        sets,
        {
            "versions": {name: model.version for name, model in (models | controls).items()},
            "retired": _by_set({test: asdict(one) for test, one in judged.retired.items()}),
            "tests": makers.counts(tests),
            "power": {of: [asdict(one) for one in rules] for of, rules in (("assumed", assumed), ("measured", found))},
            "gate": {"result": verdict.result, "rules": [_rounded(rule) for rule in rules]},
        },
        settings,
    )
    retired = {f"{name}_{documents}_retired": one.pairs for (name, documents), one in judged.retired.items()}
    return _figures(inputs, verdict, tried) | {"pairs": pool.num_rows, **retired}


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
    sets: dict[tuple[str, str], Measured],
    known: dict[str, Any],
    settings: Settings,
) -> None:
    """Write what was measured, in evaluate.json what else is ``known`` too, and what DVC shows and compares."""
    gate, number = known["gate"]["result"], settings.cycle.number
    queries = pa.concat_tables(one.per_query for one in sets.values())
    ranked = pa.concat_tables(one.rankings for one in sets.values())
    of_all_pairs = queries.filter(pc.and_(pc.equal(queries["pairs"], ALL), pc.equal(queries["documents"], SERVED)))
    served = ranked.filter(pc.equal(ranked["documents"], SERVED))
    with replace_directory(out) as beside:
        contracts.write(queries, beside / "per_query", contracts.PER_QUERY)
        contracts.write(ranked, beside / "rankings", contracts.RANKINGS)
        write_json(
            beside / "evaluate.json",
            {
                **known,
                "pairs": _by_set({test: one.pairs for test, one in sets.items()}),
                "sets": _by_set(
                    {
                        test: {pairs: as_json(compared) for pairs, compared in one.compared.items()}
                        for test, one in sets.items()
                    }
                ),
                "calibration": _by_set({test: _rounded(one.calibration) for test, one in sets.items()}),
                "controls": {
                    name: _by_set({test: _by_measure(one.less_controls[name]) for test, one in sets.items()})
                    for name in next(iter(sets.values())).less_controls
                },
                "examples": examples.biggest(of_all_pairs, served, settings.evaluation),
            },
        )
        write_json(beside / "metrics.json", plots.metrics(sets, gate, number))
        write_json(beside / "slices.json", plots.slices(sets, settings.evaluation.gate_measure))


def _controls(trained: Path) -> list[Path]:
    """Return the directories of the train step's controls, by name; none where it trained none."""
    return sorted(path for path in (trained / "controls").glob("*") if path.is_dir())


def _assumed(judged: pools.Pools, settings: EvaluationSettings) -> list[Power]:
    """Return, and tell, what the test sets find before any model has scored them."""
    tests = {test: pools.rows_of(judged.pairs, *test) for test in judged.retired}
    found = power.assumed({test: numbered(rows).queries.num_rows for test, rows in tests.items()}, settings)
    _tell(found, "assumed")
    return found


def _tell(found: Sequence[Power], of: str) -> None:
    for one in found:
        _LOG.log(logging.INFO if one.enough else logging.WARNING, "serm: evaluate: %s", one.told(of))


def _by_measure(less: Mapping[str, LessControl]) -> dict[str, Any]:
    return {measure: _rounded(one) for measure, one in less.items()}


def _by_set(values: Mapping[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """Return (set, documents) -> value as set -> documents -> value."""
    found: dict[str, dict[str, Any]] = {}
    for (name, documents), value in values.items():
        found.setdefault(name, {})[documents] = value
    return found


def _figures(inputs: GateInputs, verdict: Verdict, tried: Trial) -> Figures:
    figures: Figures = {"gate": verdict.result}
    for result in WORST_FIRST[:-1]:
        if named := [rule.rule for rule in verdict.rules if rule.result == result]:
            figures[result] = ", ".join(dict.fromkeys(named))
    for name in (*SETS, POOL):
        comparison: Comparison | None = getattr(inputs, name)
        if comparison:
            figures[f"{name}_queries"] = comparison.n
            figures[f"{name}_gain"] = round(comparison.difference, 4)
            figures[f"{name}_p"] = round(comparison.p, 4)
    if np.isfinite(tried.p95_ms):
        figures["served_p95_ms"] = round(tried.p95_ms, 1)
    return figures


def _answers(tried: Trial) -> Answers:
    """Return what the gate reads of a trial: all but the time."""
    return Answers(tried.requests, tried.pairs, tried.difference, tried.refused, tried.lost)


def scored(pool: pa.Table, models: Mapping[str, Scorer]) -> pa.Table:
    """Add each model's scores, as ``serm.evaluation.measured.with_scores`` does; each distinct pair is scored once.

    Raises:
        UserError: a score is not finite; its name says which model's.
    """
    from serm.relevance.together import score_all

    pairs = list(zip(pool["query"].to_pylist(), pool["text"].to_pylist(), strict=True))
    distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    row = np.array([distinct[pair] for pair in pairs], dtype=np.int64)
    for name, scores in score_all(models, [query for query, _ in distinct], [text for _, text in distinct]).items():
        if not (np.isfinite(scores.expected).all() and np.isfinite(scores.distribution).all()):
            raise UserError(f"The {name} gives scores that are not finite numbers; train it again.")
        pool = with_scores(pool, name, scores.expected[row], scores.distribution[row])
    return pool


def _rounded(one: Calibration | LessControl | Rule | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(one).items()}
