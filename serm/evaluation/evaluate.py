"""The evaluate step: both models rank both test sets, and the gate decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.evaluation.compare import ALL, NO_SHARED_TOKEN, as_json, per_query, slices
from serm.evaluation.gate import decide
from serm.evaluation.overlap import share_token
from serm.settings import Settings
from serm.step import Figures, step

if TYPE_CHECKING:
    from serm.relevance import RelevanceModel

SETS = ("frozen", "rolling")
_PAIR = ["locale", "query", "doc_id"]


@step
def evaluate(champion: Path, trained: Path, tests: Path, validated: Path, out: Path, settings: Settings) -> Figures:
    """Compare the challenger with the champion on the frozen and the rolling test set.

    Args:
        champion: the champion's directory, read with ``serm.relevance.load``.
        trained: the train step's output; the challenger is ``trained/model``.
        tests: holds ``frozen`` and ``rolling``, JUDGMENTS datasets: the judged pools of the test queries.
        validated: the validate step's output; the documents' text is in ``validated/documents``.
        out: becomes ``per_query/`` (PER_QUERY) and ``evaluation.json``: versions, number of pairs, ``sets`` (set ->
            all or no shared token -> slice -> n and measures) and ``gate`` (result, reasons).
        settings: uses the section ``evaluation``.

    Raises:
        UserError: a dataset is missing, a test pair is there twice, a test document is not in the catalogue, or a
            model's scores are not finite.
    """
    from serm import relevance

    pool = read_pools(tests, validated)
    models = {"champion": relevance.load(champion), "challenger": relevance.load(trained / "model")}
    for name, model in models.items():
        pool = pool.append_column(name, pa.array(score_once(model, pool, name)))
    plain = pa.array([not share_token(*pair) for pair in _rows(pool, "query", "text", "locale")], pa.bool_())
    choices = {ALL: pool, NO_SHARED_TOKEN: pool.filter(plain)}

    options = settings.evaluation
    measured = {
        (name, pairs): per_query(table.filter(pc.equal(table["set"], name)), name, pairs, options)
        for name in SETS
        for pairs, table in choices.items()
    }
    compared = {key: slices(table, options) for key, table in measured.items()}
    gated = {name: compared[name, ALL].get("all", {}).get(f"NDCG@{options.gate_cutoff}") for name in SETS}
    verdict = decide(gated["rolling"], gated["frozen"], options)
    with replace_directory(out) as beside:
        contracts.write(pa.concat_tables(measured.values()), beside / "per_query", contracts.PER_QUERY)
        write_json(
            beside / "evaluation.json",
            {
                "versions": {name: model.version for name, model in models.items()},
                "pairs": {name: pc.sum(pc.equal(pool["set"], name)).as_py() for name in SETS},
                "sets": {name: {pairs: as_json(compared[name, pairs]) for pairs in choices} for name in SETS},
                "gate": {"result": verdict.result, "reasons": list(verdict.reasons)},
            },
        )
    figures: Figures = {"gate": verdict.result, "pairs": pool.num_rows}
    for name, comparison in gated.items():
        if comparison:
            figures[f"{name}_queries"] = comparison.n
            figures[f"{name}_gain"] = round(comparison.difference, 4)
            figures[f"{name}_p"] = round(comparison.p, 4)
    return figures


def read_pools(tests: Path, validated: Path) -> pa.Table:
    """Return the judged pools of both test sets with the documents' text: set, locale, query, doc_id, grade, text.

    Raises:
        UserError: a dataset is missing, a pair is judged twice, or a document is not in the catalogue.
    """
    from serm.relevance import document_text

    pools = []
    for name in SETS:
        judged = contracts.read(tests / name, contracts.JUDGMENTS).select([*_PAIR, "grade"])
        counts = judged.group_by(_PAIR).aggregate([([], "count_all")])
        twice = counts.filter(pc.greater(counts["count_all"], 1)).sort_by([(c, "ascending") for c in _PAIR])
        if twice.num_rows:
            locale, query, doc_id = (twice[column][0].as_py() for column in _PAIR)
            raise UserError(
                f"{tests / name}: {twice.num_rows} pairs are judged twice, such as query {query!r} ({locale}) with "
                f"doc_id {doc_id!r}; keep one judgment of each."
            )
        pools.append(judged.append_column("set", pa.array([name] * judged.num_rows, pa.string())))
    pool = pa.concat_tables(pools).combine_chunks()

    documents = contracts.read(validated / "documents", contracts.DOCUMENTS).select(["doc_id", "title", "body"])
    documents = documents.filter(pc.is_in(documents["doc_id"], value_set=pool["doc_id"])).combine_chunks()
    row = pc.index_in(pool["doc_id"], value_set=documents["doc_id"])
    lost = pc.unique(pool["doc_id"].filter(pc.is_null(row))).sort()
    if len(lost):
        raise UserError(
            f"{validated / 'documents'}: {len(lost)} test documents are not in the catalogue, such as doc_id "
            f"{lost[0].as_py()!r} of {tests}; add them to the documents or take them out of the test sets."
        )
    text = pa.array([document_text(*pair) for pair in _rows(documents, "title", "body")], pa.string())
    return pool.append_column("text", text.take(row))


def score_once(model: RelevanceModel, pool: pa.Table, name: str) -> NDArray[np.float64]:
    """Return the expected grade of each row of ``pool``, shape [n]; each distinct pair is scored once.

    Raises:
        UserError: a score is not finite; ``name`` says which model's.
    """
    pairs = _rows(pool, "query", "text")
    distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    expected = model.score([query for query, _ in distinct], [text for _, text in distinct]).expected
    if not np.isfinite(expected).all():
        raise UserError(f"The {name} gives scores that are not finite numbers; train it again.")
    return expected[[distinct[pair] for pair in pairs]]


def _rows(table: pa.Table, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))
