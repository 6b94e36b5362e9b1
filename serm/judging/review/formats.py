"""The review queue for other tools: Label Studio and Argilla.

Neither export tells a label or a rationale of the judges: whoever grades there is blinded too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from serm.atomic import write_json
from serm.contracts import Grade
from serm.judging.review.reviews import Item

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
    # Not the query again: Argilla's to_datasets(), which alone keeps an answer's status, refuses a name used twice.
    metadata = {**texts, "priority": item.priority}
    return {"id": item.identity, "fields": fields, "metadata": metadata, "suggestions": {}, "responses": {}}
