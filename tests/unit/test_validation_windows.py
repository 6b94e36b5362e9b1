"""Validate: judgments that break a rule stop the run, and a window is compared with its end and with earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm import contracts, validation
from serm.errors import UserError
from serm.settings import Settings
from serm.validation import profile

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]
Run = Callable[..., dict[str, Any]]
YEARS = {
    number: (datetime(2017 + number, 1, 1, tzinfo=UTC), datetime(2018 + number, 1, 1, tzinfo=UTC))
    for number in range(9)
}


@pytest.fixture
def run(
    make_impressions: Make, make_documents: Make, make_judgments: Make, make_settings: MakeSettings, tmp_path: Path
) -> Run:
    """Validate a clean window, but for the tables given, in ``tmp_path``; return the checks by dataset and rule."""

    def validate(params: Settings | None = None, profiles: pa.Table | None = None, **changed: pa.Table) -> dict:
        tables = {
            "window/impressions": changed.get("impressions", make_impressions()),
            "documents": changed.get("documents", make_documents()),
            "judgments": changed.get("judgments", make_judgments()),
        }
        for name, table in tables.items():
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            pq.write_table(table, tmp_path / name / "part.parquet")
        if profiles is not None:
            contracts.write(profiles, tmp_path / "profiles", contracts.PROFILES)
        window, documents, judgments, profiled = (
            tmp_path / name for name in ("window", "documents", "judgments", "profiles")
        )
        validation.validate(window, documents, judgments, profiled, tmp_path / "out", params or make_settings())
        checks = json.loads((tmp_path / "out/validate.json").read_text())["profile"]
        return {(check["dataset"], check["rule"]): check for check in checks}

    return validate


def history(dataset: str, mixes: dict[int, dict[str, int]]) -> pa.Table:
    """PROFILES of windows of a year each: cycle -> locale -> rows."""
    rows = [
        {"cycle": cycle, "start": YEARS[cycle][0], "end": YEARS[cycle][1]}
        | {"dataset": dataset, "locale": locale, "rows": count}
        for cycle, mix in mixes.items()
        for locale, count in mix.items()
    ]
    return pa.Table.from_pylist(rows, contracts.PROFILES)


BAD_JUDGMENTS: list[tuple[dict[str, Any], str]] = [
    ({"grade": 4}, "grade is outside 0 to 3"),
    ({"grade": -1}, "grade is outside 0 to 3"),
    ({"grade": 300}, "grade is missing"),  # no int8
    ({"grade": None}, "grade is missing"),
    ({"locale": "xx"}, "locale is not in the catalogue"),
    ({"query": " "}, "query is blank"),
    ({"source": "a friend"}, "source is not seed, panel, human or shown"),
    ({"cycle": 2}, "cycle is below 0 or after this one"),
    ({"agreement": 1.5}, "agreement is outside 0 to 1"),
    ({"agreement": float("nan")}, "agreement is outside 0 to 1"),
    ({"distribution": [0.5, 0.5]}, "distribution is not four shares that sum to 1"),
    ({"distribution": [0.5, 0.5, 0.5, -0.5]}, "distribution is not four shares that sum to 1"),
    ({"distribution": [0.5, 0.5, 0.5, 0.5]}, "distribution is not four shares that sum to 1"),
]


def test_every_rule_of_judgments_finds_its_rows_and_stops_the_run(
    run: Run, make_judgments: Make, tmp_path: Path
) -> None:
    rows = make_judgments().to_pylist()
    for row, (change, _) in zip(rows, BAD_JUDGMENTS, strict=False):
        row |= {"rationale": row["doc_id"], **change}
    fields = [pa.field(f.name, pa.int64() if pa.types.is_integer(f.type) else f.type) for f in contracts.JUDGMENTS]
    with pytest.raises(UserError, match=r"13 of 60 judgments \(21.7%\) .* at most 0 may; see .* mend the judgments\."):
        run(judgments=pa.Table.from_pylist(rows, pa.schema(fields)))
    lines = contracts.read(tmp_path / "out/quarantine", contracts.QUARANTINE).to_pylist()
    assert {line["dataset"] for line in lines} == {"judgments"}
    found = {json.loads(line["row"])["rationale"]: line["reason"] for line in lines}
    assert found == {f"d{n}": rule for n, (_, rule) in enumerate(BAD_JUDGMENTS)}
    assert "failed" in (tmp_path / "out/data_docs/index.html").read_text()


def test_one_bad_judgment_is_enough(run: Run, make_judgments: Make) -> None:
    rows = make_judgments().to_pylist()
    rows[7]["grade"] = 4
    with pytest.raises(UserError, match=r"1 of 60 judgments .*, most by 'grade is outside 0 to 3' \(1 rows\)"):
        run(judgments=pa.Table.from_pylist(rows, contracts.JUDGMENTS))


def test_two_grades_of_a_pair_contradict_each_other(run: Run, make_judgments: Make, tmp_path: Path) -> None:
    rows = make_judgments().to_pylist()
    rows += [{**rows[0], "grade": 3}, rows[1]]
    with pytest.raises(UserError, match="3 of 62 judgments"):
        run(judgments=pa.Table.from_pylist(rows, contracts.JUDGMENTS))
    lines = contracts.read(tmp_path / "out/quarantine", contracts.QUARANTINE).to_pylist()
    reasons = sorted((json.loads(line["row"])["doc_id"], line["reason"]) for line in lines)
    contradicting, repeated = "grades of the pair contradict each other", "query, locale and doc_id are repeated"
    assert reasons == [("d0", contradicting), ("d0", f"{contradicting}; {repeated}"), ("d1", repeated)]


def test_a_first_window_is_said_to_be_unchecked(run: Run, tmp_path: Path) -> None:
    checks = run()
    unchecked = {key: check["finding"] for key, check in checks.items() if check["passed"] is None}
    rules = ("volume", "growth of the volume", "locale mix")
    assert unchecked == {
        (dataset, rule): "no earlier window" for dataset in ("documents", "impressions", "judgments") for rule in rules
    }
    assert "impressions: volume (no earlier window)" in (tmp_path / "out/data_docs/index.html").read_text()


def test_the_profile_of_a_window_is_what_the_next_is_compared_with(
    run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    run()
    profiles = contracts.read(tmp_path / "out/profiles", contracts.PROFILES)
    counts = make_impressions()["locale"].value_counts().to_pylist()
    assert {row["locale"]: row["rows"] for row in profiles.to_pylist() if row["dataset"] == "impressions"} == {
        count["values"]: count["counts"] for count in counts
    }
    later = {"number": 2, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    checks = run(make_settings(cycle=later), profiles)
    assert checks["impressions", "volume"]["value"] == 1
    assert checks["impressions", "locale mix"]["value"] == 0
    assert all(check["passed"] for check in checks.values())
    again = contracts.read(tmp_path / "out/profiles", contracts.PROFILES)
    assert sorted(set(again["cycle"].to_pylist())) == [1, 2]
    run(make_settings(cycle=later), again)  # the cycle once more: its own profile is no earlier window
    assert contracts.read(tmp_path / "out/profiles", contracts.PROFILES) == again


def test_a_log_that_breaks_off_stops_the_run(run: Run, make_impressions: Make, make_settings: MakeSettings) -> None:
    table = make_impressions(searches=600)
    early = table.filter(pc.less(table["event_time"], pa.scalar(datetime(2018, 9, 1, tzinfo=UTC))))
    with pytest.raises(UserError, match=r"the newest event is of 2018-08-30 .* validation.max_silent_share allows at"):
        run(impressions=early)
    checks = run(make_settings(validation={"max_silent_share": 0.4}), impressions=early)
    assert checks["impressions", "silence before the window's end"]["value"] == pytest.approx(122 / 365, abs=0.01)


def test_an_old_catalogue_and_old_judgments_warn(run: Run, make_settings: MakeSettings) -> None:
    limits = {"max_catalogue_age_days": 365, "max_judgments_age_cycles": 4}
    later = {"number": 5, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    checks = run(make_settings(cycle=later, validation=limits))
    assert checks["documents", "age of the newest document"]["value"] == 366
    assert checks["judgments", "age of the newest judgment"]["value"] == 5
    failed = {key for key, check in checks.items() if check["passed"] is False}
    assert failed == {("documents", "age of the newest document"), ("judgments", "age of the newest judgment")}


def test_a_catalogue_without_dates_is_not_an_old_one(run: Run, make_documents: Make) -> None:
    table = make_documents()
    column = table.schema.field("published_at")
    undated = pa.array([0] * table.num_rows, pa.int64()).cast(column.type)
    checks = run(documents=table.set_column(table.column_names.index("published_at"), column, undated))
    found = checks["documents", "age of the newest document"]
    assert (found["value"], found["passed"]) == (None, None)
    assert "no document has a date" in json.dumps(found)


def test_locales_without_judgments_are_named(run: Run, make_judgments: Make) -> None:
    judged = make_judgments()
    checks = run(judgments=judged.filter(pc.not_equal(judged["locale"], "fr")))
    check = checks["judgments", "impressions in locales without a judgment"]
    assert check["passed"] is False
    assert check["finding"].endswith("of the impressions: fr")


def test_a_volume_far_below_the_trailing_windows_stops_the_run(run: Run, make_settings: MakeSettings) -> None:
    usual = {"de": 2500, "en": 2500, "fr": 2500}
    later = make_settings(cycle={"number": 5, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"})
    # The oldest is beyond the four trailing windows, and a median does not follow one that stands out.
    profiles = history("impressions", {0: {"en": 10**9}, 1: usual, 2: {"en": 10}, 3: usual, 4: usual})
    with pytest.raises(
        UserError, match=r"a day, 0\.20 times the median of 4 earlier .*\.min_volume_ratio asks for at least 0\.25"
    ):
        run(later, profiles)


def test_growth_and_a_new_mix_warn(run: Run, make_settings: MakeSettings) -> None:
    later = make_settings(cycle={"number": 2, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"})
    checks = run(later, history("impressions", {1: {"de": 100, "en": 100}}))
    failed = {key for key, check in checks.items() if check["passed"] is False}
    assert failed == {("impressions", "growth of the volume"), ("impressions", "locale mix")}
    assert "most moved fr, from 0.0% to" in checks["impressions", "locale mix"]["finding"]
    assert checks["documents", "volume"]["passed"] is None


MIX = st.dictionaries(st.sampled_from(["de", "en", "fr", "ja"]), st.integers(1, 10**9), min_size=1)


@given(now=MIX, earlier=st.lists(MIX, min_size=1, max_size=6))
def test_volume_and_mix_keep_their_ranges(now: dict[str, int], earlier: list[dict[str, int]]) -> None:
    params = Settings.model_validate(
        {"cycle": {"number": 8, "start": YEARS[8][0].isoformat(), "end": YEARS[8][1].isoformat()}}
    )
    profiles = history("documents", dict(enumerate(earlier, start=1)))
    checks = {
        check.rule: check
        for check in profile.beside_earlier(history("documents", {8: now}), profiles, params)
        if check.dataset == "documents"
    }
    assert 0 <= checks["locale mix"].value <= 1
    totals = sorted(sum(mix.values()) for mix in earlier[-4:])
    assert sum(now.values()) / totals[-1] <= checks["volume"].value * 1.000001
    assert checks["volume"].value <= 1.000001 * sum(now.values()) / totals[0]
    if all(mix == now for mix in earlier):
        assert checks["locale mix"].value == pytest.approx(0)
