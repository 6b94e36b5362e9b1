"""The rolling test set, from window to window: new queries are drawn, judged and held out; old ones retire."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts, relevance
from serm import engine as engines
from serm.atomic import recover, replace_directory, write_json
from serm.judging.cold import grade_cold
from serm.layout import CHAMPION, DOCUMENTS, JUDGMENTS, KNOWLEDGE, LOCK, LOG, REFERENCE, TEST_REVIEWED, TESTS
from serm.pairs.test_sets import ANNOTATED, DRAWN, MADE, PEOPLE, POOL, SERVED, VALIDATED, datasets, held_out
from serm.pairs.text import folded
from serm.pooling.draw import LEAST_DOCUMENTS, draw
from serm.pooling.pools import documents_of, pool
from serm.pooling.window import cut
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.merge import merged
from serm.workspace.store import link_or_copy

RENEWED = "renewed.json"
"""Beside the test sets: for which cycle they were renewed."""
_QUERY = ["locale", "query"]
_PAIR = ["query", "locale", "doc_id"]


@step
def renew(root: Path, settings: Settings) -> Figures:
    """Renew the rolling test set of the workspace ``root`` for the cycle of ``settings``, before it runs; once a cycle.

    Queries that are new in the window are drawn: searched for neither in the reference window nor in any judgment or
    test, however spelled, and served three documents of the catalogue. What users were served for them, and what
    searches find beside it, is graded by the LLM judges of ``judging.llms`` and by people (``serm review --tests``). A
    query is tested on from the cycle on in which three served documents of it are graded; it is never mined, whether
    graded or not. Grades that come later join. After ``tests.keep_cycles`` a query retires, as long as enough are left.

    Raises:
        UserError: a part of the workspace is missing, or an endpoint refuses.
    """
    tests, number = root / TESTS, settings.cycle.number
    if not settings.tests.draw:
        return {}
    recover(tests)  # a renewal that was killed between its two renames
    if (tests / RENEWED).exists():
        told: Figures = json.loads((tests / RENEWED).read_text(encoding="utf-8"))
        if told["cycle"] == number:
            return told
    with TemporaryDirectory(dir=root / LOCK.parent, prefix="tests-") as directory:
        impressions = cut(root / LOG, (settings.cycle.start, settings.cycle.end), Path(directory) / "window", settings)
        with engines.connect(settings.engine) as engine:
            rows = contracts.scan(engine, impressions, contracts.IMPRESSIONS)
            before = contracts.scan(engine, root / REFERENCE, contracts.IMPRESSIONS)
            known = before.select(typed=before["query"].strip().lower()).distinct()
            there = contracts.scan(engine, root / DOCUMENTS, contracts.DOCUMENTS).select("doc_id")
            new = rows.mutate(typed=rows["query"].strip().lower()).anti_join(known, "typed").semi_join(there, "doc_id")
            judged = contracts.scan(engine, root / JUDGMENTS, contracts.JUDGMENTS).select("query")
            taken = folded(engine.to_pyarrow(judged.union(held_out(engine, tests)).distinct())["query"])
            drawn = draw(engine, new, settings.tests.draw, seed=settings.tests.seed, taken=taken)
            encoder = relevance.load(root / CHAMPION, settings.relevance).encoder
            pairs, texts = pool(engine, drawn, rows, root / DOCUMENTS, encoder)
        contracts.write(texts, Path(directory) / "documents", contracts.DOCUMENTS)
        knowledge = contracts.read(root / KNOWLEDGE, contracts.KNOWLEDGE)
        graded = grade_cold(pairs, Path(directory) / "documents", knowledge, settings, settings.tests.sample, number)
    pairs = pairs.append_column("cycle", pa.repeat(pa.scalar(number, pa.int32()), pairs.num_rows))
    drawn_pairs = _joined(tests / DRAWN, pairs, contracts.DRAWN)
    new = contracts.conform(graded.judgments, tests, contracts.JUDGMENTS)
    panel = merged(_read(tests / ANNOTATED / "judgments", contracts.JUDGMENTS), new)
    people = merged(_read(tests / PEOPLE, contracts.JUDGMENTS), _read(root / TEST_REVIEWED, contracts.JUDGMENTS))
    grades = merged(panel, people)
    places = datasets(tests)
    old = {name: contracts.read(places["rolling", name], contracts.JUDGMENTS) for name in (SERVED, POOL)}
    rolling, retired = _rolling(old, drawn_pairs, grades, settings)
    asked = tests / ANNOTATED
    review = _joined(asked / "review", graded.review, contracts.REVIEW)
    votes = _joined(asked / "votes", graded.votes, contracts.VOTES)
    with engines.connect(settings.engine) as engine:
        texts = documents_of(engine, drawn_pairs, root / DOCUMENTS)
    figures: Figures = {
        "cycle": number,
        "drawn": drawn.num_rows,
        "by_panel": graded.judgments.num_rows,
        "to_review": graded.review.num_rows,
        "rolling_queries": _queries(rolling[SERVED]).num_rows,
        "retired_queries": retired,
    }
    with replace_directory(tests) as beside:
        shutil.copytree(tests, beside, copy_function=link_or_copy, dirs_exist_ok=True)
        for documents, table in rolling.items():
            contracts.write(table, datasets(beside)["rolling", documents], contracts.JUDGMENTS)
        contracts.write(drawn_pairs, beside / DRAWN, contracts.DRAWN)
        contracts.write(panel, beside / ANNOTATED / "judgments", contracts.JUDGMENTS)
        contracts.write(people, beside / PEOPLE, contracts.JUDGMENTS)
        contracts.write(review, beside / ANNOTATED / "review", contracts.REVIEW)
        contracts.write(votes, beside / ANNOTATED / "votes", contracts.VOTES)
        contracts.write(texts, beside / VALIDATED / "documents", contracts.DOCUMENTS)
        if sample := _sample(panel, people):
            write_json(beside / MADE, {"sample": sample})
        write_json(beside / RENEWED, figures)
    return figures


def _rolling(
    old: dict[str, pa.Table], drawn: pa.Table, grades: pa.Table, settings: Settings
) -> tuple[dict[str, pa.Table], int]:
    """Return the rolling set (documents -> JUDGMENTS) and how many queries retired."""
    oldest = settings.cycle.number - settings.tests.keep_cycles
    gone = _without(drawn.filter(pc.less(drawn["cycle"], oldest)), old[SERVED])  # retired before: it stays held out
    graded = _without(_graded(grades, drawn), gone)
    served = graded.filter(graded["served"])
    enough = served.group_by(_QUERY).aggregate([([], "count_all")])
    ready = enough.filter(pc.greater_equal(enough["count_all"], LEAST_DOCUMENTS))
    new = {SERVED: _of(served, ready), POOL: _of(graded, ready)}
    given = {name: _without(table, drawn) for name, table in old.items()}
    both = {name: pa.concat_tables([given[name], new[name].select(given[name].column_names)]) for name in given}
    ages = both[SERVED].group_by(_QUERY).aggregate([("cycle", "min")]).sort_by("cycle_min")
    past = pc.less(ages["cycle_min"], oldest)
    most = max(0, ages.num_rows - settings.evaluation.gate.min_queries)
    retired = ages.filter(past).slice(0, most)
    order = [(name, "ascending") for name in ("locale", "query", "doc_id")]
    return {name: _without(table, retired).sort_by(order) for name, table in both.items()}, retired.num_rows


def _graded(grades: pa.Table, drawn: pa.Table) -> pa.Table:
    """Return the ``grades`` of drawn pairs, with ``served`` and the cycle that drew them."""
    rows = grades.select(_PAIR).append_column("row", pa.array(range(grades.num_rows), pa.int64()))
    found = rows.join(drawn, _PAIR, join_type="inner").sort_by("row")
    table = grades.take(found["row"]).append_column("served", found["served"])  # a join takes no distributions
    column = table.column_names.index("cycle")
    return table.set_column(column, table.schema.field(column), found["cycle"])


def _of(table: pa.Table, queries: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(_key(table), value_set=_key(queries)))


def _without(table: pa.Table, queries: pa.Table) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(_key(table), value_set=_key(queries))))


def _key(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["locale"], table["query"], "\x1f")


def _queries(table: pa.Table) -> pa.Table:
    return table.group_by(_QUERY).aggregate([])


def _sample(panel: pa.Table, people: pa.Table) -> dict[str, int]:
    """Return how many pairs both a panel and people graded, and on how many they say the same; nothing without any."""
    sides: Sequence[pa.Table] = [table.select([*_PAIR, "grade"]) for table in (panel, people)]
    both = sides[0].join(sides[1], _PAIR, right_suffix="_people", join_type="inner")
    same = pc.sum(pc.equal(both["grade"], both["grade_people"])).as_py() or 0
    return {"pairs": both.num_rows, "same": int(same)} if both.num_rows else {}


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    return contracts.read(path, schema) if path.exists() else schema.empty_table()


def _joined(path: Path, new: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return what the dataset ``path`` has, if it is there, and the ``new`` rows."""
    return pa.concat_tables([_read(path, schema), contracts.conform(new, path, schema)])
