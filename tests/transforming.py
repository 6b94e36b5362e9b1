"""SERM's transformer in this process, before two tiny models, with a catalogue of four documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import tiny_models
from serving_here import answering

from serm import contracts
from serm.rollout.split import Variant
from serm.serving import documents as store
from serm.serving import judgments
from serm.serving.transformer.__main__ import predictors
from serm.serving.transformer.application import Transformer
from serm.serving.transformer.events import Events
from serm.serving.transformer.querylog import QueryLog
from serm.settings.serving import TransformerSettings

KEY = b"a secret of the tests"
TITLES = {"d1": "grinning cat", "d2": "dog face", "d3": "red heart", "d4": "grinning dog face"}


def save_models(root: Path) -> dict[str, Path]:
    """Save a champion and a challenger on one encoder."""
    paths = {name: root / name for name in ("champion", "challenger")}
    for seed, path in enumerate(paths.values()):
        tiny_models.save(path, root / "base", seed)
    return paths


def write_catalogue(path: Path, titles: Mapping[str, str]) -> None:
    """Write a DOCUMENTS dataset."""
    rows = [
        {"doc_id": name, "locale": "en", "title": title, "body": "", "published_at": 0, "attributes": []}
        for name, title in titles.items()
    ]
    contracts.write(pa.Table.from_pylist(rows, contracts.DOCUMENTS), path, contracts.DOCUMENTS)


def write_store(folder: Path) -> Path:
    """Write the document store of ``TITLES``."""
    write_catalogue(folder / "documents", TITLES)
    figures = store.write(folder / "documents", folder / "documents.sqlite")
    assert figures["documents"] == len(TITLES)
    return folder / "documents.sqlite"


def write_judged(folder: Path, grades: Mapping[tuple[str, str], int | Sequence[float]]) -> Path:
    """Write the judgment store of (query, doc_id) -> a certain grade, or how likely each is."""
    rows = [
        {"query": query, "locale": "en", "doc_id": doc_id, "cycle": 1, "source": "seed" if sure else "panel"}
        | {"grade": grade if sure else int(np.argmax(grade)), "distribution": None if sure else grade}
        for (query, doc_id), grade in grades.items()
        for sure in [isinstance(grade, int)]
    ]
    contracts.write(pa.Table.from_pylist(rows, contracts.JUDGMENTS), folder / "judgments", contracts.JUDGMENTS)
    judgments.write(folder / "judgments", folder / "judgments.sqlite")
    return folder / "judgments.sqlite"


@contextmanager
def transforming(
    upstream: str,
    log: Path,
    ramp: Path | None = None,
    documents: Path | None = None,
    events: Events | None = None,
    judged: Path | None = None,
    **changes: Any,
) -> Iterator[tuple[httpx.Client, Transformer, QueryLog]]:
    """Let a transformer answer before the predictors at ``upstream``, until the block ends; then its log is whole."""
    limits = TransformerSettings(**changes)
    written = QueryLog(log, limits)
    names: tuple[Variant, ...] = ("champion", "challenger")
    try:
        urls = {name: f"{upstream}/v1/models/{name}" for name in names}
        application = Transformer(predictors(urls), written, KEY, limits, documents, ramp, events, judged)
        with answering(application) as client:
            yield client, application, written
    finally:
        written.close()
        if events is not None:
            events.close()


def write_ramp(path: Path, percent: float) -> Path:
    """Write an experiment."""
    path.write_text(json.dumps({"name": "cycle-0007", "percent": percent}))
    return path


def ask(client: httpx.Client, **changes: object) -> httpx.Response:
    """Have the catalogue ranked."""
    return client.post("/rank", json={"query": "cat", "client_id": "ann", "documents": list(TITLES), **changes})


def logged(log: Path) -> list[dict[str, Any]]:
    """Return the records of the query log's files."""
    return [json.loads(line) for file in sorted(log.glob("*.jsonl")) for line in file.read_text().splitlines()]
