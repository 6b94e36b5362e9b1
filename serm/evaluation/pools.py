"""The judged pools of the test sets: their documents' text, and the slices that their queries belong to."""

from __future__ import annotations

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.settings import Settings

SETS = ("frozen", "rolling")
_QUERY = ["locale", "query"]
_PAIR = [*_QUERY, "doc_id"]


def read(tests: Path, validated: Path, reference: Path, settings: Settings) -> pa.Table:
    """Return the judged pools of both test sets, one row a judged document.

    Columns: set, locale, query, doc_id, grade, title, text, and the slices of the query:

    - family, the language family of its locale;
    - traffic, by its searches in the window: ``head`` is the queries with the first third of all searches, then
      ``torso``, then ``tail``; ``unseen`` is what nobody searched for;
    - query_age: ``old`` if the reference window has a search for it, else ``new``;
    - document_age: ``new`` if the newest of its best-graded documents was published in the window, else ``old``.

    Raises:
        UserError: a dataset is missing, a pair is judged twice, or a document is not in the catalogue.
    """
    pool = judged(tests, validated)
    queries = pool.group_by(_QUERY).aggregate([]).sort_by([(name, "ascending") for name in _QUERY])
    searched = _searched(queries, validated, reference, settings)
    pool = pool.join(searched, _QUERY)
    pool = pool.join(_document_age(pool, settings), ["set", *_QUERY])
    family = {locale: name for name, locales in settings.evaluation.families.items() for locale in locales}
    named = [family.get(locale, "other") for locale in pool["locale"].to_pylist()]
    pool = pool.append_column("family", pa.array(named, pa.string())).drop_columns("published_at")
    return pool.sort_by([(name, "ascending") for name in ("set", *_PAIR)]).combine_chunks()


def judged(tests: Path, validated: Path) -> pa.Table:
    """Return what ``read`` does, without the slices; raises like it."""
    pool = pa.concat_tables(_judged(tests / name, name) for name in SETS).combine_chunks()
    return _with_documents(pool, tests, validated)


def _judged(path: Path, name: str) -> pa.Table:
    judged = contracts.read(path, contracts.JUDGMENTS).select([*_PAIR, "grade"])
    counts = judged.group_by(_PAIR).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).sort_by([(c, "ascending") for c in _PAIR])
    if twice.num_rows:
        locale, query, doc_id = (twice[column][0].as_py() for column in _PAIR)
        raise UserError(
            f"{path}: {twice.num_rows} pairs are judged twice, such as query {query!r} ({locale}) with "
            f"doc_id {doc_id!r}; keep one judgment of each."
        )
    return judged.append_column("set", pa.array([name] * judged.num_rows, pa.string()))


def _with_documents(pool: pa.Table, tests: Path, validated: Path) -> pa.Table:
    """Add title, text and published_at."""
    from serm.relevance import document_text

    documents = contracts.read(validated / "documents", contracts.DOCUMENTS)
    documents = documents.select(["doc_id", "title", "body", "published_at"])
    documents = documents.filter(pc.is_in(documents["doc_id"], value_set=pool["doc_id"])).combine_chunks()
    row = pc.index_in(pool["doc_id"], value_set=documents["doc_id"])
    lost = pc.unique(pool["doc_id"].filter(pc.is_null(row))).sort()
    if len(lost):
        raise UserError(
            f"{validated / 'documents'}: {len(lost)} test documents are not in the catalogue, such as doc_id "
            f"{lost[0].as_py()!r} of {tests}; add them to the documents or take them out of the test sets."
        )
    pairs = zip(documents["title"].to_pylist(), documents["body"].to_pylist(), strict=True)
    text = pa.array([document_text(*pair) for pair in pairs], pa.string())
    pool = pool.append_column("text", text.take(row))
    return pool.append_column("title", documents["title"].take(row)).append_column(
        "published_at", documents["published_at"].take(row)
    )


def _searched(queries: pa.Table, validated: Path, reference: Path, settings: Settings) -> pa.Table:
    """Return locale, query, traffic and query_age of the ``queries`` (locale, query)."""
    with engines.connect(settings.engine) as engine:
        asked = ibis.memtable(queries)
        now = contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS)
        before = contracts.scan(engine, reference, contracts.IMPRESSIONS).semi_join(asked, _QUERY)
        counts = now.select(*_QUERY, "query_id").distinct().group_by(_QUERY).aggregate(searches=ibis._.count())
        up_to = ibis.window(
            order_by=[ibis.desc("searches"), *_QUERY], preceding=None, following=0
        )  # the rows are ordered by all that tells them apart, so one engine ranks them as the other
        total = counts.aggregate(all_searches=counts.searches.sum())
        ranked = counts.cross_join(total).mutate(
            share_before=(ibis._.searches.sum().over(up_to) - ibis._.searches) / ibis._.all_searches
        )
        known = before.select(*_QUERY).distinct().mutate(known=True)
        joined = asked.left_join(ranked, _QUERY, rname="{name}_ranked").left_join(known, _QUERY, rname="{name}_known")
        traffic = ibis.cases(
            (joined.share_before.isnull(), "unseen"),
            (joined.share_before < 1 / 3, "head"),
            (joined.share_before < 2 / 3, "torso"),
            else_="tail",
        )
        age = joined.known.fill_null(False).ifelse("old", "new")
        found = joined.select(*_QUERY, traffic=traffic, query_age=age)
        return engine.to_pyarrow(found).cast(pa.schema([(name, pa.string()) for name in found.columns]))


def _document_age(pool: pa.Table, settings: Settings) -> pa.Table:
    """Return set, locale, query and document_age."""
    query = ["set", *_QUERY]
    best = pool.join(pool.group_by(query).aggregate([("grade", "max")]), query)
    best = best.filter(pc.equal(best["grade"], best["grade_max"]))
    newest = best.group_by(query).aggregate([("published_at", "max")])
    start = pa.scalar(settings.cycle.start, pa.timestamp("us", tz="UTC"))
    age = pc.if_else(pc.greater_equal(newest["published_at_max"], start), "new", "old")
    return newest.select(query).append_column("document_age", age)
