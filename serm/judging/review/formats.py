"""The review queue for other tools, and their answers back: Label Studio and Argilla.

Neither export tells a label or a rationale of the judges: whoever grades there is blinded too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from serm.atomic import write_json
from serm.contracts import Grade
from serm.errors import UserError
from serm.judging.review.reviews import Item, Key

Format = Literal["label-studio", "argilla"]
GRADES = {f"{grade.value} {grade.name.lower()}": grade.value for grade in Grade}
"""What a person chooses from in Label Studio."""
LABEL_STUDIO_CONFIG = (
    '<View><Header value="$query"/><Text name="document" value="$document"/><Text name="evidence" value="$evidence"/>'
    '<Choices name="grade" toName="document" choice="single">'
    + "".join(f'<Choice value="{name}" hotkey="{value}"/>' for name, value in GRADES.items())
    + "</Choices></View>"
)
"""The labelling interface that the tasks are made for; paste it into the project's settings."""

_Row = dict[str, Any]


def write_tasks(items: Iterable[Item], path: Path, kind: Format) -> int:
    """Write the items as a file that the tool imports, atomically; return their number.

    ``label-studio``: a JSON list of tasks (https://labelstud.io/guide/task_format). ``argilla``: a JSON list of
    records as Argilla 2's ``records.to_json`` writes and ``records.from_json`` reads, for a dataset with the text
    fields ``query``, ``document`` and ``evidence`` and the rating question ``grade`` (values 0 to 3).
    """
    make = {"label-studio": _label_studio_task, "argilla": _argilla_record}[kind]
    rows = [make(item) for item in items]
    write_json(path, rows)
    return len(rows)


def read_grades(path: Path, kind: Format) -> dict[Key, tuple[int, str]]:
    """Read the grades out of a tool's export, by pair; what nobody answered, or skipped, is left out.

    Where several people graded a pair, the grade that most of them gave counts; without one, the pair is left out.

    Raises:
        UserError: the file is not such an export.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        answers = FORMATS[kind]
        found = {_key(row, kind): answers(row) for row in rows}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path}: not an export of {kind} ({type(error).__name__}: {error}); export the review's tasks as JSON."
        ) from error
    return {key: (grade, "") for key, grades in found.items() if (grade := _agreed(grades)) is not None}


def _texts(item: Item) -> _Row:
    query, locale, doc_id = item.key
    return {
        "query": query,
        "document": f"{item.title}\n{item.body}".strip(),
        "evidence": "\n".join(f"{piece['source']}: {piece['text']}" for piece in item.evidence) or "-",
        "locale": locale,
        "doc_id": doc_id,
    }


def _label_studio_task(item: Item) -> _Row:
    return {"data": {**_texts(item), "identity": item.identity, "priority": item.priority}}


def _argilla_record(item: Item) -> _Row:
    texts = _texts(item)
    fields = {name: texts.pop(name) for name in ("query", "document", "evidence")}
    metadata = {**texts, "query": fields["query"], "priority": item.priority}
    return {"id": item.identity, "fields": fields, "metadata": metadata, "suggestions": {}, "responses": {}}


def _key(row: _Row, kind: Format) -> Key:
    of = row["data"] if kind == "label-studio" else row["metadata"]
    return of["query"], of["locale"], of["doc_id"]


def _label_studio_grades(row: _Row) -> list[int]:
    return [
        GRADES[result["value"]["choices"][0]]
        for annotation in row.get("annotations", [])
        if not annotation.get("was_cancelled")
        for result in annotation["result"]
        if result["from_name"] == "grade"
    ]


def _argilla_grades(row: _Row) -> list[int]:
    responses = row["responses"].get("grade", [])
    return [Grade(int(r["value"])).value for r in responses if r.get("status", "submitted") == "submitted"]


def _agreed(grades: list[int]) -> int | None:
    ranked = Counter(grades).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


FORMATS: Mapping[Format, Callable[[_Row], list[int]]] = {
    "label-studio": _label_studio_grades,
    "argilla": _argilla_grades,
}
"""The formats, and what reads a row's grades."""
