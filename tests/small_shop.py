"""The files of a small shop, for ``serm init``: a log, a catalogue and judgments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def write(folder: Path) -> Path:
    """A log of 40 days, ten documents and judgments of 40 queries, none of which names a locale."""
    records: Rows = []
    for number in range(40):
        day = f"2026-{3 + number // 28:02d}-{1 + number % 28:02d}T10:00:00Z"
        head = {"query_id": f"q{number}", "client_id": f"u{number}", "timestamp": day}
        records.append({**head, "user_query": f"lamp {number}"})
        for place in range(3):
            where = {"object": {"object_id": f"d{(number + place) % 10}"}, "position": {"ordinal": place}}
            actions = ["impression"] + (["click"] if place == 1 else [])
            records += [{**head, "action_name": action, "event_attributes": where} for action in actions]
    lines(folder / "log.ndjson", records)
    lines(folder / "products.jsonl", [{"id": f"d{n}", "title": f"lamp {n}"} for n in range(10)])
    rows = [f"lamp {n},d{(n + place) % 10},{place}" for n in range(40) for place in range(3)]
    (folder / "judged.csv").write_text("query,docid,rating\n" + "\n".join(rows))
    return folder


def lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def documents(shop: Path, **more: Any) -> None:
    rows = [json.loads(line) | more for line in (shop / "products.jsonl").read_text().splitlines()]
    lines(shop / "products.jsonl", rows)
