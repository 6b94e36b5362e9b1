"""The rules of a row, one ibis expression each: the same expression counts the violations and fills quarantine."""

from __future__ import annotations

from datetime import datetime

import ibis
import pyarrow as pa
from ibis.expr.types import BooleanValue

from serm.contracts import DOCUMENTS, IMPRESSIONS
from serm.settings import CycleSettings

#: Reason -> whether a row broke the rule. A null says that the rule has nothing to look at: not broken.
Rules = dict[str, BooleanValue]


def flag_documents(documents: ibis.Table, cycle: CycleSettings) -> tuple[ibis.Table, list[str]]:
    """Return the DOCUMENTS ``documents`` with a column ``reasons``, the rules that a row broke, and all rules."""
    rules = {
        **_missing(documents, DOCUMENTS),
        "doc_id is repeated": _repeated(documents, ["doc_id"]),
        "title is blank": documents.title.strip() == "",
        "published_at is after the window": documents.published_at >= _time(cycle.end),
    }
    return _flag(documents, rules), list(rules)


def flag_impressions(
    impressions: ibis.Table, documents: ibis.Table, cycle: CycleSettings
) -> tuple[ibis.Table, list[str]]:
    """Return the IMPRESSIONS ``impressions`` with a column ``reasons``, and all rules.

    ``documents`` is the catalogue after its own quarantine: an impression of a document that was quarantined
    goes there too, so that all that is kept joins.
    """
    locales = documents.select("locale").distinct().order_by("locale").to_pyarrow()["locale"].to_pylist()
    catalogue = documents.select(known_doc_id="doc_id")
    table = impressions.left_join(catalogue, impressions.doc_id == catalogue.known_doc_id)
    time = table.event_time
    rules = {
        **_missing(table, IMPRESSIONS),
        "event_time is outside the window": (time < _time(cycle.start)) | (time >= _time(cycle.end)),
        "query is blank": table.query.strip() == "",
        "locale is not in the catalogue": table.locale.notin(locales),
        "doc_id is not in the catalogue": table.doc_id.notnull() & table.known_doc_id.isnull(),
        "position is below 1": table.position < 1,
        "dwell_seconds is negative or not a number": (table.dwell_seconds < 0) | table.dwell_seconds.isnan(),
        "dwell_seconds without a click": table.dwell_seconds.notnull() & ~table.clicked,
        "score is outside 0 to 3": ~table.score.between(0, 3) | table.score.isnan(),
        "query_id, doc_id and position are repeated": _repeated(table, ["query_id", "doc_id", "position"]),
    }
    return _flag(table, rules), list(rules)


def _time(value: datetime) -> ibis.ir.TimestampScalar:
    return ibis.literal(value, "timestamp('UTC')")


def _missing(table: ibis.Table, schema: pa.Schema) -> Rules:
    return {f"{field.name} is missing": table[field.name].isnull() for field in schema if not field.nullable}


def _repeated(table: ibis.Table, key: list[str]) -> BooleanValue:
    """Whether a row is a further one of its key; the first in the order of all columns is the one to keep."""
    order = [name for name, kind in table.schema().items() if name not in key and not kind.is_map()]
    further = ibis.row_number().over(group_by=key, order_by=order) > 0
    return further & ibis.and_(*(table[name].notnull() for name in key))


def _flag(table: ibis.Table, rules: Rules) -> ibis.Table:
    found = [broken.fill_null(False).ifelse(rule, ibis.null(str)) for rule, broken in rules.items()]
    return table.mutate(reasons=ibis.array(found).filter(lambda rule: rule.notnull()))
