"""The rules of a row, one ibis expression each: the same expression counts the violations and fills quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import ibis
import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.types import BooleanValue

from serm import engine as engines
from serm.contracts import DOCUMENTS, IMPRESSIONS, JUDGMENTS, Grade
from serm.settings import CycleSettings

#: Reason -> whether a row broke the rule. A null says that the rule has nothing to look at: not broken.
Rules = dict[str, BooleanValue]
#: Who may have given a judgment.
SOURCES = ("seed", "panel", "human", "shown")


@dataclass(frozen=True)
class Flagged:
    """The rows of ``dataset`` with a boolean column for each rule, which says whether the row broke it."""

    dataset: str
    schema: pa.Schema
    table: ibis.Table
    columns: dict[str, str]
    """Rule -> its column."""
    retired: str | None = None
    """The column that says whether a row is of a document that is gone, where that is no fault of the row."""

    @property
    def sound(self) -> ibis.Table:
        """The rows that broke no rule, retired ones included."""
        return self.table.filter(~self.broken).select(self.schema.names)

    @property
    def kept(self) -> ibis.Table:
        """The rows that broke no rule and are not retired."""
        table = self.table.filter(~self.broken)
        return (table.filter(~table[self.retired]) if self.retired else table).select(self.schema.names)

    @property
    def quarantined(self) -> ibis.Table:
        """The others, as QUARANTINE."""
        rows = self.table.filter(self.broken)
        reasons = ibis.array([rows[name].ifelse(rule, ibis.null(str)) for rule, name in self.columns.items()])
        # Times as text: engines write them in forms of their own.
        values = {name: rows[name] for name in self.schema.names}
        texts = {name: v.strftime("%Y-%m-%d %H:%M:%S.%f") for name, v in values.items() if v.type().is_timestamp()}
        row = ibis.struct({**values, **texts}).cast("json").cast("string")
        reason = reasons.filter(lambda rule: rule.notnull()).join("; ")
        return rows.select(dataset=ibis.literal(self.dataset), reason=reason, row=row)

    def held(self, engine: BaseBackend) -> Flagged:
        """Return the same, computed once for several readers."""
        return replace(self, table=engines.hold(engine, f"flagged_{self.dataset}", self.table))

    @property
    def broken(self) -> BooleanValue:
        """Whether a row broke any rule."""
        return ibis.or_(*(self.table[name] for name in self.columns.values()))


def flag_documents(engine: BaseBackend, documents: ibis.Table, cycle: CycleSettings) -> Flagged:
    """Return the DOCUMENTS ``documents``, flagged."""
    table = _with_repeated(engine, documents, DOCUMENTS, ("doc_id",))
    rules = {
        "doc_id is repeated": table.repeated,
        "title is blank": table.title.strip() == "",
        "published_at is after the window": table.published_at >= _time(cycle.end),
    }
    return _flag("documents", DOCUMENTS, table, rules)


def flag_impressions(
    engine: BaseBackend,
    impressions: ibis.Table,
    documents: ibis.Table,
    cycle: CycleSettings,
    max_position: int,
    removed: ibis.Table | None = None,
) -> Flagged:
    """Return the IMPRESSIONS ``impressions``, flagged; ``max_position`` is stream's.

    ``documents`` is the catalogue after its own quarantine: an impression of a document that was quarantined
    goes there too, so that all that is kept joins. One of a document that was ``removed`` (``doc_id``) is retired.
    """
    key = ("query_id", "doc_id", "position")
    table = _with_repeated(engine, impressions, IMPRESSIONS, key, page="query_id", place="position")
    table = _with_known_documents(table, documents)
    is_retired: BooleanValue = ibis.literal(False)
    if removed is not None:
        gone = removed.select(removed_doc_id="doc_id").distinct()
        table = table.left_join(gone, table.doc_id == gone.removed_doc_id)
        table = table.mutate(retired=table.removed_doc_id.notnull() & table.known_doc_id.isnull())
        is_retired = table.retired
    time = table.event_time
    rules = {
        "event_time is outside the window": (time < _time(cycle.start)) | (time >= _time(cycle.end)),
        "query is blank": table.query.strip() == "",
        "locale is not in the catalogue": table.locale.notin(_locales(documents)) & ~is_retired,
        "doc_id is not in the catalogue": table.doc_id.notnull() & table.known_doc_id.isnull() & ~is_retired,
        "position is below 1": table.position < 1,
        "position is beyond stream.max_position": table.position > max_position,
        "dwell_seconds is negative or not finite": (table.dwell_seconds < 0)
        | table.dwell_seconds.isnan()
        | table.dwell_seconds.isinf(),
        "dwell_seconds without a click": table.dwell_seconds.notnull() & ~table.clicked,
        "click_seconds is negative or not finite": (table.click_seconds < 0)
        | table.click_seconds.isnan()
        | table.click_seconds.isinf(),
        "click_seconds without a click": table.click_seconds.notnull() & ~table.clicked,
        "score is outside 0 to 3": ~table.score.between(0, 3) | table.score.isnan(),
        "query_id, doc_id and position are repeated": table.repeated,
    }
    return _flag("impressions", IMPRESSIONS, table, rules, retired=None if removed is None else "retired")


def flag_judgments(engine: BaseBackend, judgments: ibis.Table, documents: ibis.Table, cycle: CycleSettings) -> Flagged:
    """Return the JUDGMENTS ``judgments``, flagged; ``documents`` as for impressions.

    A judgment of a document that is gone, or in quarantine, breaks no rule by that: it is retired.
    """
    pair = ("query", "locale", "doc_id")
    table = _with_known_documents(_with_repeated(engine, judgments, JUDGMENTS, pair), documents)
    table = table.mutate(retired=table.doc_id.notnull() & table.known_doc_id.isnull())
    lowest, highest = table.grade.min().over(group_by=pair), table.grade.max().over(group_by=pair)
    shares = table.distribution
    rules = {
        "query is blank": table.query.strip() == "",
        "locale is not in the catalogue": table.locale.notin(_locales(documents)) & ~table.retired,
        "grade is outside 0 to 3": ~table.grade.between(int(min(Grade)), int(max(Grade))),
        "source is not seed, panel, human or shown": table.source.notin(SOURCES),
        "cycle is below 0 or after this one": ~table.cycle.between(0, cycle.number),
        "agreement is outside 0 to 1": ~table.agreement.between(0, 1) | table.agreement.isnan(),
        "distribution is not four shares that sum to 1": (shares.length() != len(Grade))
        | ~shares.mins().between(0, 1)
        | ((shares.sums() - 1).abs() > 1e-6),
        "grades of the pair contradict each other": lowest != highest,
        "query, locale and doc_id are repeated": table.repeated,
    }
    return _flag("judgments", JUDGMENTS, table, rules, retired="retired")


def _with_known_documents(table: ibis.Table, documents: ibis.Table) -> ibis.Table:
    catalogue = documents.select(known_doc_id="doc_id")
    return table.left_join(catalogue, table.doc_id == catalogue.known_doc_id)


def _locales(documents: ibis.Table) -> list[str]:
    locales: list[str] = documents.select("locale").distinct().order_by("locale").to_pyarrow()["locale"].to_pylist()
    return locales


def _time(value: datetime) -> ibis.ir.TimestampScalar:
    return ibis.literal(value, "timestamp('UTC')")


def _with_repeated(
    engine: BaseBackend, table: ibis.Table, schema: pa.Schema, key: Sequence[str], page: str = "", place: str = ""
) -> ibis.Table:
    """Return ``table`` with ``repeated``: whether a row is a further one of its key.

    The first in the order of all columns is the one to keep. ``page`` and ``place`` as in ``split_repeated``.
    """
    single, several = engines.split_repeated(engine, table, key, page, place)
    order = [name for name in schema.names if name not in key and not table[name].type().is_map()]
    further = ibis.row_number().over(group_by=key, order_by=order) > 0
    has_key = ibis.and_(*(several[name].notnull() for name in key))
    return ibis.union(single.mutate(repeated=False), several.mutate(repeated=further & has_key))


def _flag(dataset: str, schema: pa.Schema, table: ibis.Table, rules: Rules, retired: str | None = None) -> Flagged:
    """Return ``table`` flagged by ``rules``, and by what its schema says must not be null."""
    # IS NULL is itself never null: nothing to fill in, as there is in the others.
    missing = {f"{field.name} is missing": table[field.name].isnull() for field in schema if not field.nullable}
    broken = {**missing, **{rule: flag.fill_null(False) for rule, flag in rules.items()}}
    columns = {rule: f"rule_{number}" for number, rule in enumerate(broken)}
    flags = {columns[rule]: flag for rule, flag in broken.items()}
    also = [retired] if retired else []
    return Flagged(dataset, schema, table.select(*schema.names, *also, **flags), columns, retired)
