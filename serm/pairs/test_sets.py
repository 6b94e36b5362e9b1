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
MADE = "made.json"
"""Beside the sets, where a panel of judges made some of their judgments: what is known of it."""
DRAWN = "drawn"
"""Beside the sets: all that was ever drawn for the rolling one (DRAWN), judged or not yet."""


def datasets(tests: Path) -> dict[tuple[str, str], Path]:
    """Return (set, documents) -> the dataset (JUDGMENTS) in the directory ``tests``: ``<set>/<documents>``."""
    return {(name, documents): tests / name / documents for name in SETS for documents in DOCUMENTS}


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
