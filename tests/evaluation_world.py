"""Two judged test sets with their documents, window and reference, small enough to know every answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from serm import contracts
from serm.settings import Settings

START = datetime(2020, 1, 1, tzinfo=UTC)
QUERIES = 80
LOCALES = ("de", "ja")

Judged = tuple[str, str, str, int]
"""query, locale, doc_id, grade"""


def write(root: Path) -> None:
    """Write ``tests``, ``validated`` and ``reference`` under ``root``.

    Each set has ``QUERIES`` queries in each of ``LOCALES`` and their four documents, one a grade, whose title ends with
    the grade; frozen queries share the word "title" with all of them. The best Japanese document is new. All four are
    served, the worst and the best are the pool.
    """
    documents = [(f"{locale}-{grade}", locale, grade) for locale in LOCALES for grade in range(4)]
    catalogue(
        root,
        [(doc_id, locale, f"title {grade}", grade == 3 and locale == "ja") for doc_id, locale, grade in documents],
    )
    for name, word in (("frozen", "title"), ("rolling", "other")):
        for kind, grades in (("served", {0, 1, 2, 3}), ("pool", {0, 3})):
            judge(
                root / "tests" / name / kind,
                [
                    (f"{word} q{query}", locale, doc_id, grade)
                    for query in range(QUERIES)
                    for doc_id, locale, grade in documents
                    if grade in grades
                ],
            )
    searches(root / "validated" / "impressions", [("title q0", "de")])
    searches(root / "reference", [("title q0", "de"), ("other q1", "ja")])


def catalogue(root: Path, documents: Iterable[tuple[str, str, str, bool]]) -> None:
    """Write ``validated/documents``: doc_id, locale, title, and whether it was published in the window."""
    rows = [
        {
            "doc_id": doc_id,
            "locale": locale,
            "title": title,
            "body": "",
            "published_at": START if new else START - timedelta(days=1),
            "attributes": [],
        }
        for doc_id, locale, title, new in documents
    ]
    contracts.write(
        pa.Table.from_pylist(rows, contracts.DOCUMENTS), root / "validated" / "documents", contracts.DOCUMENTS
    )


def judge(path: Path, rows: Sequence[Judged]) -> None:
    """Write a test set."""
    table = pa.Table.from_pylist(
        [
            {"query": query, "locale": locale, "doc_id": doc_id, "grade": grade, "source": "human", "cycle": 0}
            | dict.fromkeys(("rationale", "panel_version", "agreement"))
            for query, locale, doc_id, grade in rows
        ],
        schema=contracts.JUDGMENTS,
    )
    contracts.write(table, path, contracts.JUDGMENTS)


def searches(path: Path, asked: Sequence[tuple[str, str]]) -> None:
    """Write IMPRESSIONS: two documents shown for each (query, locale)."""
    rows = [
        {
            "event_time": START,
            "query_id": f"q{number}",
            "session_id": f"s{number}",
            "user_id": "u",
            "locale": locale,
            "query": query,
            "doc_id": f"{locale}-{position}",
            "position": position,
            "clicked": False,
            "negative_feedback": False,
        }
        | dict.fromkeys(("dwell_seconds", "score", "model_version", "variant"))
        for number, (query, locale) in enumerate(asked)
        for position in (1, 2)
    ]
    contracts.write(pa.Table.from_pylist(rows, contracts.IMPRESSIONS), path, contracts.IMPRESSIONS)


def settings(**evaluation: object) -> Settings:
    """Settings for the window 2020."""
    cycle = {"start": START.isoformat(), "end": START.replace(year=2021).isoformat()}
    options = {"families": {"Germanic": ["de", "nl"]}, "permutations": 500, **evaluation}
    return Settings.model_validate({"cycle": cycle, "evaluation": options})
