"""The test sets: their documents' text, and the slices that their queries belong to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.pairs import test_sets
from serm.pairs.documents import join
from serm.settings import Settings

_LOG = logging.getLogger(__name__)
_QUERY = ["locale", "query"]
_PAIR = [*_QUERY, "doc_id"]
#: The columns that say which test set a row is of.
_SET = ["set", "documents"]


@dataclass(frozen=True)
class Retired:
    """What of a test set is retired, as its documents are gone from the catalogue."""

    pairs: int
    queries: int
    """Those that keep no pair, so they are not measured."""


@dataclass(frozen=True)
class Pools:
    """The judged documents of all test sets."""

    pairs: pa.Table
    """One row a judged document that is in the catalogue."""
    retired: dict[tuple[str, str], Retired]
    """(set, documents) -> what is left out."""


def rows_of(pairs: pa.Table, name: str, documents: str) -> pa.Table:
    """Return the rows of ``pairs`` that are of one set and choice of documents."""
    return pairs.filter(pc.and_(pc.equal(pairs["set"], name), pc.equal(pairs["documents"], documents)))


def read_pools(tests: Path, validated: Path, reference: Path, settings: Settings) -> Pools:
    """Return the judged documents of all test sets.

    Columns: set (frozen, rolling), documents (served, pool), locale, query, doc_id, grade, title, text, and the slices
    of the query:

    - family, the language family of its locale;
    - traffic, by its searches in the window: ``head`` is the queries with the first third of all searches, then
      ``torso``, then ``tail``; ``unseen`` is what nobody searched for;
    - query_age: ``old`` if the reference window has a search for it, else ``new``;
    - document_age: ``new`` if the newest of its best-graded documents was published in the window, else ``old``.

    Raises:
        UserError: a dataset is missing, a pair is judged twice, or no document of a set is in the catalogue.
    """
    with engines.connect(settings.engine) as engine:
        found = judged(engine, tests, validated)
        pool = found.pairs
        queries = pool.group_by(_QUERY).aggregate([]).sort_by([(name, "ascending") for name in _QUERY])
        searched = _searched(engine, queries, validated, reference)
    pool = pool.join(searched, _QUERY)
    pool = pool.join(_document_age(pool, settings), [*_SET, *_QUERY])
    family = {locale: name for name, locales in settings.evaluation.families.items() for locale in locales}
    named = [family.get(locale, "other") for locale in pool["locale"].to_pylist()]
    pool = pool.append_column("family", pa.array(named, pa.string())).drop_columns("published_at")
    pool = pool.sort_by([(name, "ascending") for name in (*_SET, *_PAIR)]).combine_chunks()
    return Pools(pool, found.retired)


def judged(engine: BaseBackend, tests: Path, validated: Path) -> Pools:
    """Return what ``read_pools`` does, without the slices; raises like it."""
    given = test_sets.datasets(tests)
    parts = {test: _joined(engine, path, test, validated / "documents") for test, path in given.items()}
    pool = pa.concat_tables(pairs for pairs, _ in parts.values()).combine_chunks()
    return Pools(pool, {test: retired for test, (_, retired) in parts.items()})


def _joined(engine: BaseBackend, path: Path, test: tuple[str, str], catalogue: Path) -> tuple[pa.Table, Retired]:
    """Return a test set with its documents' title, text and published_at, and what of it is retired."""
    from serm.relevance import document_text

    given = _judged(path, test)
    joined = join(engine, given, path, catalogue, ("title", "body", "published_at"))
    kept = joined.pairs.select(_QUERY).group_by(_QUERY).aggregate([])
    lost = joined.retired.select(_QUERY).group_by(_QUERY).aggregate([]).join(kept, _QUERY, join_type="left anti")
    if lost.num_rows:
        locale, query = (lost.sort_by([(c, "ascending") for c in _QUERY])[column][0].as_py() for column in _QUERY)
        _LOG.warning(
            "serm: %s: %s test queries keep no document of the catalogue and are not measured, such as %r (%s)",
            *(path, f"{lost.num_rows:,}", query, locale),
        )
    pairs = zip(joined.pairs["title"].to_pylist(), joined.pairs["body"].to_pylist(), strict=True)
    text = pa.array([document_text(*pair) for pair in pairs], pa.string())
    pool = joined.pairs.drop_columns("body").append_column("text", text)
    return pool, Retired(joined.retired.num_rows, lost.num_rows)


def _judged(path: Path, test: tuple[str, str]) -> pa.Table:
    judged = contracts.read(path, contracts.JUDGMENTS).select([*_PAIR, "grade"])
    counts = judged.group_by(_PAIR).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).sort_by([(c, "ascending") for c in _PAIR])
    if twice.num_rows:
        locale, query, doc_id = (twice[column][0].as_py() for column in _PAIR)
        raise UserError(
            f"{path}: {twice.num_rows} pairs are judged twice, such as query {query!r} ({locale}) with "
            f"doc_id {doc_id!r}; keep one judgment of each."
        )
    for column, value in zip(_SET, test, strict=True):
        judged = judged.append_column(column, pa.array([value] * judged.num_rows, pa.string()))
    return judged


def _searched(engine: BaseBackend, queries: pa.Table, validated: Path, reference: Path) -> pa.Table:
    """Return locale, query, traffic and query_age of the ``queries`` (locale, query)."""
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
    """Return set, documents, locale, query and document_age."""
    query = [*_SET, *_QUERY]
    best = pool.join(pool.group_by(query).aggregate([("grade", "max")]), query)
    best = best.filter(pc.equal(best["grade"], best["grade_max"]))
    newest = best.group_by(query).aggregate([("published_at", "max")])
    start = pa.scalar(settings.cycle.start, pa.timestamp("us", tz="UTC"))
    age = pc.if_else(pc.greater_equal(newest["published_at_max"], start), "new", "old")
    return newest.select(query).append_column("document_age", age)
