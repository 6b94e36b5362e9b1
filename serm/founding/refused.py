"""What `serm evolve` would refuse of a catalogue, a log and judgments that do not fit each other."""

from __future__ import annotations

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts
from serm import engine as engines
from serm.catalogue.fields import shown as shown_names
from serm.settings import Settings

_STOPS = "`serm evolve` will stop at validation"
_COUNTED = {"locale": "string", "doc_id": "string", "impressions": "int64"}


def told(documents: Path, shown: pa.Table, judgments: pa.Table, settings: Settings) -> list[str]:
    """Say what validation will stop at in the first cycle, a sentence each, with what mends it.

    Args:
        documents: the catalogue (DOCUMENTS).
        shown: what the log shows was served: locale, doc_id, impressions.
        judgments: JUDGMENTS, of which none may be of another locale than the catalogue's.
        settings: the window's end and ``validation.max_quarantined_share`` are used.
    """
    limit = settings.validation.max_quarantined_share
    with engines.connect(settings.engine) as engine:
        catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
        end = ibis.literal(settings.cycle.end, "timestamp('UTC')")
        catalogue = catalogue.select("locale", known="doc_id", late=catalogue.published_at >= end)
        by_locale = engine.to_pyarrow(
            catalogue.group_by("locale").aggregate(rows=ibis._.count(), late=ibis._.late.sum())
        )
        counted = shown.group_by(["locale", "doc_id"]).aggregate([("impressions", "sum")])
        rows = ibis.memtable(counted.rename_columns(list(_COUNTED)), schema=ibis.schema(_COUNTED))
        joined = rows.left_join(catalogue.drop("locale"), rows.doc_id == catalogue.known)
        there = by_locale["locale"].to_pylist()
        is_strange, is_gone, is_late = joined.locale.notin(there), joined.known.isnull(), joined.late.fill_null(False)
        sums = {
            "all": joined.impressions.sum(),
            "broken": joined.impressions.sum(where=is_strange | is_gone | is_late),
            "strange": joined.impressions.sum(where=is_strange),
            "gone": joined.impressions.sum(where=is_gone),
            "late": joined.impressions.sum(where=is_late),
            "example": joined.doc_id.min(where=is_gone),
            "own": catalogue.known.min().as_scalar(),
        }
        (of,) = engine.to_pyarrow(joined.aggregate(**sums)).to_pylist()
        judged = engine.to_pyarrow(
            ibis.memtable(judgments.select(["locale", "doc_id"])).semi_join(catalogue, [("doc_id", "known")])
        )
    documents_late = pc.sum(by_locale["late"]).as_py() or 0
    stops = (of["broken"] or 0) > limit * (of["all"] or 0)
    found = []
    if stops and of["strange"]:
        strange = counted.filter(pc.invert(pc.is_in(counted["locale"], value_set=pa.array(there, pa.string()))))
        found.append(_of_locale(f"{of['all']:,} impressions", strange["locale"], of["strange"], there))
    if stops and of["gone"]:
        found.append(
            f"Of {of['all']:,} impressions {of['gone']:,} are of documents that are not in the catalogue, such as"
            f" {of['example']!r} (the catalogue has ids such as {of['own']!r}): {_STOPS}. Give the catalogue that the"
            " log is of, or with --id the field that the log's ids are of."
        )
    if (stops and of["late"]) or documents_late > limit * (pc.sum(by_locale["rows"]).as_py() or 0):
        found.append(
            f"{documents_late:,} documents are dated after the first cycle's window, which ends"
            f" {settings.cycle.end:%Y-%m-%d %H:%M} UTC; {of['late'] or 0:,} of {of['all'] or 0:,} impressions are of"
            f" them: {_STOPS}. Name with --published-at the field that says since when a document is there, or leave"
            " the dates out with --published-at ''; or give a log that goes on longer."
        )
    mixed = judged.filter(pc.invert(pc.is_in(judged["locale"], value_set=pa.array(there, pa.string()))))
    if mixed.num_rows:
        found.append(_of_locale(f"{judged.num_rows:,} judgments", mixed["locale"], mixed.num_rows, there))
    return found


def _of_locale(of_all: str, locales: pa.ChunkedArray, count: int, there: list[str]) -> str:
    found, own = sorted(set(locales.to_pylist())), sorted(there)
    return (
        f"Of {of_all} {count:,} are of a locale that no document of the catalogue has ({shown_names(found)}; the"
        f" catalogue has {shown_names(own)}): {_STOPS}. With --locale {found[0]} all documents, and what else names no"
        " locale, are of that one; or give as --locale the catalogue's field that has them."
    )
