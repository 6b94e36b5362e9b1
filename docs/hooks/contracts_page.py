"""The columns of every dataset, from serm/contracts.py."""

from __future__ import annotations

import griffe
import pyarrow as pa

from serm import contracts

INTRODUCTION = """# Datasets

What the steps hand to each other: each dataset is a directory of Parquet files with one of these schemas. This page is
written from `serm/contracts.py` at each build.
"""


def page() -> str:
    """Return the page as Markdown."""
    source = griffe.load("serm.contracts", search_paths=["."])
    lines = source.filepath.read_text(encoding="utf-8").splitlines()
    parts = [INTRODUCTION]
    for name, schema in vars(contracts).items():
        if isinstance(schema, pa.Schema) and not name.startswith("_"):
            parts.append(f"## {name.lower().replace('_', ' ')}\n")
            parts.append(f"{_said(lines, source.attributes[name])}\n")
            rows = [f"| `{one.name}` | `{one.type}` | {'yes' if one.nullable else ''} |" for one in schema]
            parts.append("| column | type | may be null |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _said(lines: list[str], schema: griffe.Attribute) -> str:
    """Return the ``#:`` comment above a schema."""
    end = start = (schema.lineno or 1) - 1
    while lines[start - 1].startswith("#:"):
        start -= 1
    return " ".join(line.removeprefix("#:").strip() for line in lines[start:end]).replace("``", "`")
