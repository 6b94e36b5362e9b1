"""A window as a whole: how fresh it is, and how its volume and its mix of locales compare with earlier windows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import fmean, median
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from serm.contracts import PROFILES
from serm.settings import CycleSettings, Settings
from serm.validation.suites import Check

Mix = dict[str, int]
"""Locale -> rows."""
_DAY = timedelta(days=1)
_NO_EARLIER = "no earlier window"
_NO_ROWS = "no rows"
_UNDATED = datetime(1970, 1, 1, tzinfo=UTC)
"""When a document is of whose date its catalogue does not tell."""


def count(kept: Mapping[str, ibis.Table], cycle: CycleSettings) -> pa.Table:
    """Return how many rows each of ``kept``, the datasets after quarantine, has in each locale, as PROFILES.

    Retired judgments count: that documents left the catalogue is no loss of judgments.
    """
    head = {"cycle": cycle.number, "start": cycle.start, "end": cycle.end}
    rows = [
        {**head, "dataset": dataset, **row}
        for dataset, table in kept.items()
        for row in table.group_by("locale").aggregate(rows=table.count()).order_by("locale").to_pyarrow().to_pylist()
    ]
    return pa.Table.from_pylist(rows, PROFILES)


def before(profiles: pa.Table, cycle: CycleSettings) -> pa.Table:
    """Return the PROFILES ``profiles`` of the cycles before ``cycle``."""
    return profiles.filter(pc.less(profiles["cycle"], cycle.number))


def beside_earlier(now: pa.Table, earlier: pa.Table, settings: Settings) -> list[Check]:
    """Compare the volume and the locale mix of each dataset with the trailing windows.

    ``now`` and ``earlier`` are PROFILES. Where there is no earlier window the checks have no value.
    """
    checks: list[Check] = []
    for dataset in ("documents", "impressions", "judgments"):
        mix = _mix(now, dataset, settings.cycle.number)
        numbers = sorted(set(_of(earlier, dataset)["cycle"].to_pylist()))[-settings.validation.trailing_windows :]
        trailing = {number: _mix(earlier, dataset, number) for number in numbers}
        days = {row["cycle"]: (row["end"] - row["start"]) / _DAY for row in earlier.to_pylist()}
        length = (settings.cycle.end - settings.cycle.start) / _DAY
        checks += _volume(dataset, mix, length, [(one, days[number]) for number, one in trailing.items()], settings)
        checks.append(_locale_mix(dataset, mix, list(trailing.values()), settings))
    return checks


def freshness(kept: Mapping[str, ibis.Table], settings: Settings) -> list[Check]:
    """Compare the newest event, document and judgment with the window's end."""
    cycle, limits = settings.cycle, settings.validation
    event, document = (_newest(kept["impressions"].event_time), _newest(kept["documents"].published_at))
    if document == _UNDATED:
        document = None
    judged = _newest(kept["judgments"].cycle)
    silent = None if event is None else (cycle.end - event) / (cycle.end - cycle.start)
    age = None if document is None else (cycle.end - document) / _DAY
    cycles = None if judged is None else cycle.number - judged
    return [
        Check(
            dataset="impressions",
            rule="silence before the window's end",
            severity="error",
            value=silent,
            finding=_NO_ROWS
            if silent is None
            else f"the newest event is of {event:%Y-%m-%d %H:%M}, {silent:.1%} of the window before its end",
            high=limits.max_silent_share,
            setting="max_silent_share",
        ),
        Check(
            dataset="documents",
            rule="age of the newest document",
            severity="warning",
            value=age,
            finding="no document has a date"
            if age is None
            else f"the newest document is of {document:%Y-%m-%d}, {age:,.0f} days before the window's end",
            high=limits.max_catalogue_age_days,
            setting="max_catalogue_age_days",
        ),
        Check(
            dataset="judgments",
            rule="age of the newest judgment",
            severity="warning",
            value=cycles,
            finding=_NO_ROWS if cycles is None else f"the newest judgment is of cycle {judged}, {cycles} before this",
            high=limits.max_judgments_age_cycles,
            setting="max_judgments_age_cycles",
        ),
    ]


def unjudged(now: pa.Table, judged: pa.Table, settings: Settings) -> Check:
    """Say which share of the impressions is in locales without a judgment; ``judged`` are PROFILES of those in use."""
    shown, usable = (_mix(*one, settings.cycle.number) for one in ((now, "impressions"), (judged, "judgments")))
    bare = {locale: rows for locale, rows in shown.items() if locale not in usable}
    value = sum(bare.values()) / sum(shown.values()) if shown else None
    names = f": {', '.join(bare)}" if bare else ""
    return Check(
        dataset="judgments",
        rule="impressions in locales without a judgment",
        severity="warning",
        value=value,
        finding=_NO_ROWS if value is None else f"{value:.1%} of the impressions{names}",
        high=settings.validation.max_unjudged_share,
        setting="max_unjudged_share",
    )


def _volume(dataset: str, mix: Mix, days: float, trailing: list[tuple[Mix, float]], settings: Settings) -> list[Check]:
    """Impressions are events and count by the day; a catalogue and judgments are what there is at one time."""
    by_day = dataset == "impressions"
    rows = sum(mix.values()) / (days if by_day else 1)
    usual = median(sum(one.values()) / (length if by_day else 1) for one, length in trailing) if trailing else None
    ratio = None if usual is None else rows / usual
    unit = f"{dataset} a day" if by_day else dataset
    finding = (
        _NO_EARLIER
        if ratio is None
        else f"{rows:,.1f} {unit}, {ratio:.2f} times the median of {len(trailing)} earlier windows ({usual:,.1f})"
    )
    limits = settings.validation
    least, most = limits.min_volume_ratio, limits.max_volume_ratio
    return [
        Check(dataset, "volume", "error", ratio, finding, low=least, setting="min_volume_ratio"),
        Check(dataset, "growth of the volume", "warning", ratio, finding, high=most, setting="max_volume_ratio"),
    ]


def _locale_mix(dataset: str, mix: Mix, trailing: list[Mix], settings: Settings) -> Check:
    """The total variation distance between the shares of locales now and their mean over the trailing windows."""
    value, finding = None, _NO_EARLIER
    if trailing:
        now, usual = _shares(mix), [_shares(one) for one in trailing]
        mean = {locale: fmean(one.get(locale, 0.0) for one in usual) for locale in set(now).union(*usual)}
        moved = {locale: now.get(locale, 0.0) - share for locale, share in mean.items()}
        value = sum(map(abs, moved.values())) / 2
        most = max(sorted(moved), key=lambda locale: abs(moved[locale]))
        finding = (
            f"{value:.1%} of the rows in other locales than in {len(trailing)} earlier windows; "
            f"most moved {most}, from {mean[most]:.1%} to {now.get(most, 0.0):.1%}"
        )
    limit = settings.validation.max_locale_shift
    return Check(dataset, "locale mix", "warning", value, finding, high=limit, setting="max_locale_shift")


def _of(profiles: pa.Table, dataset: str) -> pa.Table:
    return profiles.filter(pc.equal(profiles["dataset"], dataset))


def _mix(profiles: pa.Table, dataset: str, cycle: int) -> Mix:
    rows = _of(profiles, dataset).to_pylist()
    return {row["locale"]: row["rows"] for row in rows if row["cycle"] == cycle}


def _shares(mix: Mix) -> dict[str, float]:
    total = sum(mix.values())
    return {locale: rows / total for locale, rows in mix.items()}


def _newest(column: ibis.ir.Column) -> Any:
    value: datetime | int | None = column.max().to_pyarrow().as_py()
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)  # Spark hands times over without their zone
    return value
