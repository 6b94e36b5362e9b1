"""The test sets of a workspace: where they lie, and what their queries must be kept out of.

A set's queries are tested on two choices of documents. ``served``: all that the first stage serves for a query, so
what the model ranks for its users. ``pool``: what a judged pool holds, served or not, so what retrieval misses too.
"""

from __future__ import annotations

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm import contracts
from serm.pairs.text import folded

SETS = ("frozen", "rolling")
#: The choices of documents; the gate decides on the first.
DOCUMENTS = ("served", "pool")
SERVED, POOL = DOCUMENTS
NEXT = "next"
"""The set that is to replace the frozen one (``serm tests renew``), measured beside it in one cycle; else not there."""
FROZEN = "frozen.json"
"""Beside the sets, once the frozen one was replaced: which version it is, and since when."""
MADE = "made.json"
"""Beside the sets, where a panel of judges made some of their judgments: what is known of it."""
ANNOTATED, VALIDATED = Path("review/annotate"), Path("review/validate")
"""Beside the sets: what people are to grade of the drawn pairs, as ``serm review --tests`` takes it."""
PEOPLE = Path("review/people")
"""Beside the sets: all that people graded of them."""
DRAWN = "drawn"
"""Beside the sets: all that was ever drawn for the rolling one (DRAWN), judged or not yet."""


def datasets(tests: Path) -> dict[tuple[str, str], Path]:
    """Return (set, documents) -> the dataset (JUDGMENTS) in the directory ``tests``: ``<set>/<documents>``.

    The sets are ``SETS``, and ``NEXT`` where it is there.
    """
    sets = (*SETS, *([NEXT] if (tests / NEXT).is_dir() else []))
    return {(name, documents): tests / name / documents for name in sets for documents in DOCUMENTS}


def served(pool: pa.Table, shown: pa.Table) -> tuple[pa.Table, int]:
    """Return what of a ``pool`` (JUDGMENTS) was served, and for how many of its queries that is not known.

    Of a query that ``shown`` (locale, query as ``fold`` has it, doc_id) shows no judged document for, all stand for it.
    """
    names = ("locale", "query", "doc_id")
    rows = pa.table({"locale": pool["locale"], "query": folded(pool["query"]), "doc_id": pool["doc_id"]})
    keys, seen = (pc.binary_join_element_wise(*(of[name] for name in names), "\x1f") for of in (rows, shown))
    was_shown = pc.is_in(keys, value_set=pc.unique(seen))
    query = pc.binary_join_element_wise(rows["locale"], rows["query"], "\x1f")
    known = pc.is_in(query, value_set=pc.unique(query.filter(was_shown)))
    unseen = pc.count_distinct(query.filter(pc.invert(known))).as_py()
    return pool.filter(pc.or_(was_shown, pc.invert(known))), unseen


def read(engine: BaseBackend, tests: Path) -> ibis.Table:
    """Return the judgments (JUDGMENTS) of all test sets in the directory ``tests``; a pair may stand in two of them.

    Raises:
        UserError: a dataset is missing, damaged, or lacks a column.
    """
    return ibis.union(*(contracts.scan(engine, path, contracts.JUDGMENTS) for path in datasets(tests).values()))


def held_out(engine: BaseBackend, tests: Path) -> ibis.Table:
    """Return the ``query`` texts that no model may learn from: of all test sets, and what was ever drawn for one.

    Raises:
        UserError: a dataset is missing, damaged, or lacks a column.
    """
    queries = read(engine, tests).select("query")
    if (tests / DRAWN).exists():
        queries = queries.union(contracts.scan(engine, tests / DRAWN, contracts.DRAWN).select("query"))
    return queries


def asked_alike(engine: BaseBackend, pairs: ibis.Table, tests: ibis.Table) -> ibis.Table:
    """Return the ``query`` texts of ``pairs`` that a test asks too, however spelled (``fold``), in whichever locale.

    A model that learnt from their pairs would have learnt what it is tested on. Both tables have a column ``query``.
    """
    held_out, asked = (engine.to_pyarrow(of.select("query").distinct())["query"] for of in (tests, pairs))
    same = asked.filter(pc.is_in(folded(asked), value_set=folded(held_out)))
    return ibis.memtable(pa.table({"query": same}), schema=ibis.schema({"query": "string"}))
