"""Seed judgments of a made-up catalogue: enough to train the tiny encoder on; and what a model's files hash to."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from serm import contracts

WORDS = ("cat", "dog", "red heart", "blue heart", "sun", "rain", "smile", "tear", "flag", "star")


def write(path: Path, queries: int = 60, source: str = "seed") -> Path:
    """Write ``documents``, ``judgments`` of ``queries`` queries with six documents each, and no ``shown`` ones; return
    ``path``.
    """
    rng = np.random.default_rng(5)
    names = [f"{one} {two} {number}" for number in range(6) for one in WORDS for two in WORDS[:2]]
    documents = {
        "doc_id": [f"d{n}" for n in range(len(names))],
        "locale": ["en"] * len(names),
        "title": names,
        "body": [""] * len(names),
        "published_at": [datetime(2017, 1, 1, tzinfo=UTC)] * len(names),
        "attributes": [[("n", str(n))] for n in range(len(names))],
    }
    contracts.write(pa.table(documents, schema=contracts.DOCUMENTS), path / "documents", contracts.DOCUMENTS)
    rows = []
    for number in range(queries):
        word = WORDS[number % len(WORDS)]
        for document in rng.choice(len(names), 6, replace=False):
            grade = 3 if names[document].startswith(word) else int(word in names[document]) * 2
            rows.append(
                {"query": f"{word} {number}", "locale": ("de", "en")[number % 2], "doc_id": f"d{document}"}
                | {"grade": grade, "rationale": None, "source": source, "cycle": 0, "panel_version": None}
                | {"agreement": None}
            )
    contracts.write(pa.Table.from_pylist(rows, contracts.JUDGMENTS), path / "judgments", contracts.JUDGMENTS)
    contracts.write(contracts.JUDGMENTS.empty_table(), path / "shown", contracts.JUDGMENTS)
    return path


def hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file under ``directory``, by its path there."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
