"""People's answers out of the exports of Label Studio and Argilla, whichever shape they have.

An answer is what a person submitted. What was drafted, discarded, cancelled or predicted is none, and what an export
does not tell is not guessed: it is left out, with the reason.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serm.contracts import Grade
from serm.errors import UserError
from serm.judging.review.formats import GRADES
from serm.judging.review.reviews import Answer
from serm.pairs.answers import Key

_Row = dict[str, Any]
_NAMES = {name: value for name, value in GRADES.items()} | {
    name: grade.value for grade in Grade for name in (str(grade.value), f"{grade.value}.0", grade.name.lower())
}
_QUESTION = "grade"
_NO_KEY = "name no query, locale and document"
_NO_STATUS = "have no status in this export: make one with to_datasets(), or to_list(flatten=True), which keep it"


@dataclass(frozen=True)
class Export:
    """What an export holds."""

    path: Path
    answers: list[Answer]
    left_out: dict[str, list[int]] = field(default_factory=dict)
    """Why -> the rows (from 1) of what was left out, a row as often as it has such an answer."""


@dataclass(frozen=True)
class _Said:
    """One response or annotation: a grade, or why it is none."""

    grade: int | None
    why_not: str = ""
    by: str = ""
    at: str = ""


def read_export(path: Path) -> Export:
    """Read people's answers out of an export; tool and shape are told by its content.

    Label Studio: JSON, JSON-MIN, CSV, TSV. Argilla 2: ``to_json``, ``to_list`` and ``to_datasets`` as JSON, JSON lines,
    CSV or Parquet; the server's JSON; Argilla 1's datasets.

    Raises:
        UserError: the file cannot be read, or none of its rows is of such an export.
    """
    found = Export(path, [])
    strangers = 0
    for number, found_row in enumerate(rows := _rows(path), start=1):
        row = found_row if isinstance(found_row, dict) else {}
        said = _read(row)
        strangers += said is None
        for one in [_Said(None, "are of no known shape")] if said is None else said:
            key, identity = _key(row), _identity(row)
            why_not = one.why_not or ("" if key or identity else _NO_KEY)
            if one.grade is None or why_not:
                found.left_out.setdefault(why_not, []).append(number)
            else:
                found.answers.append(Answer(key, one.grade, by=one.by, at=one.at, identity=identity, row=number))
    if rows and strangers == len(rows):
        first = ", ".join(map(repr, list(rows[0])[:6])) if isinstance(rows[0], dict) else "no fields"
        raise _stranger(path, f"its first row has {first}")
    return found


def _stranger(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: not an export of label-studio or argilla ({why[:200]}); export Label Studio's tasks as JSON, "
        "JSON-MIN, CSV or TSV, or Argilla's records with to_datasets() or to_json()."
    )


def _rows(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            return list(pq.read_table(pa.BufferReader(data)).to_pylist())
        text = data.decode("utf-8-sig")
        return _json_rows(text) if text.lstrip()[:1] in ("[", "{") else _table_rows(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise _stranger(path, f"{type(error).__name__}: {error}") from error


def _json_rows(text: str) -> list[Any]:
    """A list of rows, an object of columns or of rows, one row, or a row a line (as ``datasets`` writes them)."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(whole, list):
        return whole
    if whole and all(isinstance(column, list) for column in whole.values()):
        return [dict(zip(whole, cells, strict=True)) for cells in zip(*whole.values(), strict=True)]
    if all(isinstance(row, dict) and "fields" in row for row in whole.values()):
        return list(whole.values())
    return [whole]


def _table_rows(path: Path, text: str) -> list[Any]:
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    if not {"annotator", "annotation_id", f"{_QUESTION}.responses"} & set(rows.fieldnames or ()):
        raise _stranger(path, f"it begins with {header!r}")
    return list(rows)


def _read(row: _Row) -> list[_Said] | None:
    """What people said in a row, or None where the row is of no known shape."""
    if "annotations" in row or "completions" in row:
        return list(_label_studio_task(row))
    if "annotator" in row or "annotation_id" in row:
        return [_label_studio_flat(row)]
    if "responses" in row or f"{_QUESTION}.responses" in row or isinstance(row.get(_QUESTION), list | dict):
        return list(_argilla(row))
    return None


def _label_studio_task(row: _Row) -> Iterator[_Said]:
    """Label Studio's JSON: a task with its annotations (older: completions); predictions are no answers."""
    annotations = row.get("annotations", row.get("completions")) or []
    for annotation in annotations if isinstance(annotations, list) else [annotations]:
        results = annotation.get("result") if isinstance(annotation, dict) else None
        if not isinstance(results, list | None) or not isinstance(annotation, dict):
            yield _Said(None, "are annotations without their results")
            continue
        given = (one for one in results or [] if isinstance(one, dict))
        ours = [one.get("value") for one in given if one.get("from_name") == _QUESTION]
        cancelled = annotation.get("was_cancelled") or annotation.get("skipped")
        yield _said(ours, annotation.get("completed_by"), annotation, "are cancelled" if cancelled else "")
    drafts = row.get("drafts")
    yield from [_Said(None, "are drafts")] * (len(drafts) if isinstance(drafts, list) else 0)


def _label_studio_flat(row: _Row) -> _Said:
    """A row of JSON-MIN, CSV or TSV: a task's texts and one annotation, whose cells are empty where it has none."""
    cancelled = str(row.get("was_cancelled") or "").lower() in ("true", "1")
    return _said(row.get(_QUESTION), row.get("annotator"), row, "are cancelled" if cancelled else "")


def _said(cells: object, who: object, of: Mapping[str, Any], why_not: str) -> _Said:
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    at = str(of.get("updated_at") or of.get("created_at") or "")
    values = list(_values(cells))
    grades = {_grade(value) for value in values}
    if not why_not and not values:
        why_not = "have no grade"
    elif not why_not and len(grades) > 1:
        why_not = "have several grades at once"
    elif not why_not and grades == {None}:
        why_not = "are not a grade from 0 to 3"
    return _Said(None if why_not else grades.pop(), why_not, _person("label-studio", who), at)


def _argilla(row: _Row) -> Iterator[_Said]:
    """The responses of a record.

    ``records.to_json`` writes a response's value and user, not its status. There the record's own status decides: it
    is ``completed`` once enough people submitted, so one value that all responses share was submitted by somebody.
    """
    of_record = str(row.get("status") or "").lower()
    untold: list[tuple[int | None, str]] = []
    for value, user, status in _responses(row):
        by = _person("argilla", user)
        grade = _grade(value)
        state = str(status or "").rpartition(".")[2].lower() or (
            of_record if of_record in ("submitted", "draft", "discarded") else ""
        )
        if state == "submitted":
            yield _Said(grade, "" if grade is not None else "are not a grade from 0 to 3", by)
        elif state in ("draft", "discarded"):
            yield _Said(None, "are drafts" if state == "draft" else "are discarded")
        elif value is None:
            yield _Said(None, "have no grade")
        else:
            untold.append((grade, by))
    grades = {grade for grade, _ in untold}
    if of_record == "completed" and len(grades) == 1 and None not in grades:
        yield _Said(grades.pop(), by=untold[0][1] if len(untold) == 1 else "")
    else:
        yield from [_Said(None, _NO_STATUS)] * len(untold)


def _responses(row: _Row) -> Iterator[tuple[Any, Any, Any]]:
    """Value, user and status of each response to the question."""
    if f"{_QUESTION}.responses" in row:
        columns = [_listed(row.get(f"{_QUESTION}.responses{part}")) for part in ("", ".users", ".status")]
        longest = max(map(len, columns))
        yield from zip(*(column + [None] * (longest - len(column)) for column in columns), strict=True)
        return
    responses = row.get("responses", row.get(_QUESTION)) or []
    if isinstance(responses, dict) and "value" not in responses:
        responses = responses.get(_QUESTION) or []
    if isinstance(responses, dict):  # a list of structs, as ``datasets`` turns it into a struct of lists
        columns = [_listed(responses.get(name)) for name in ("value", "user_id", "status")]
        responses = [dict(zip(("value", "user_id", "status"), cells, strict=False)) for cells in zip(*columns)]  # noqa: B905
    for one in responses if isinstance(responses, list) else [responses]:
        if not isinstance(one, dict):
            yield one, None, None
        elif one.get("question_name", _QUESTION) == _QUESTION:
            answered = one.get("values", {_QUESTION: one})  # the server: all questions of one user
            answered = answered.get(_QUESTION) if isinstance(answered, dict) else None
            value = answered.get("value") if isinstance(answered, dict) else answered
            if "values" not in one or answered is not None or one.get("status") == "discarded":
                yield value, one.get("user_id"), one.get("status")


def _listed(cell: object) -> list[Any]:
    """A list's cell; in CSV it is the list as Python or numpy prints it."""
    if isinstance(cell, str):
        return [None if word == "None" else word for word in re.findall(r"[^\s\[\],'\"]+", cell)]
    return list(cell) if isinstance(cell, list | tuple) else []


def _values(cell: object) -> Iterator[object]:
    """What was chosen, out of a value as Label Studio nests it: ``{"choices": ["2 good"]}``, ``[{"rating": 2}]``."""
    if isinstance(cell, list):
        for one in cell:
            yield from _values(one)
    elif isinstance(cell, dict):
        yield from _values([cell[name] for name in ("choices", "rating", "number", "text") if name in cell])
    elif cell not in (None, ""):
        yield cell


def _grade(value: object) -> int | None:
    if isinstance(value, str):
        return _NAMES.get(value.strip().lower())
    if isinstance(value, int | float) and not isinstance(value, bool) and value in (0, 1, 2, 3):
        return int(value)
    return None


def _person(tool: str, who: object) -> str:
    """A hash, so that one person's answers are told from another's without a name or an address."""
    return hashlib.sha256(f"{tool}\t{who}".encode("utf-8", "replace")).hexdigest()[:16] if who not in (None, "") else ""


def _texts(row: _Row) -> Iterator[_Row]:
    """Where a row may hold the pair's texts."""
    metadata = row.get("metadata")
    if isinstance(metadata, str):  # Argilla 1's datasets
        try:
            metadata = json.loads(metadata)
        except ValueError:
            metadata = None
    yield from (part for part in (row.get("data"), metadata, row.get("fields"), row) if isinstance(part, dict))


def _key(row: _Row) -> Key | None:
    parts = []
    for name in ("query", "locale", "doc_id"):
        told = next((part[name] for part in _texts(row) if part.get(name) not in (None, "")), None)
        if isinstance(told, bool) or not isinstance(told, str | int):
            return None
        parts.append(str(told))
    return (parts[0], parts[1], parts[2])


def _identity(row: _Row) -> str:
    names = ("identity", "external_id", "id")
    return next((value for part in _texts(row) for name in names if isinstance(value := part.get(name), str)), "")
