"""A package of somebody else's, installed: its module and its dist-info lie on sys.path, as pip leaves them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install(where: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, entries: dict[str, str]) -> None:
    """Install version 1.2 of ``name``, whose module ``name_plugin`` holds the source ``module``.

    ``entries`` are its entry points: ``group: name = attribute`` lines by group.
    """
    site = where / name
    site.mkdir()
    imported = f"{name}_plugin"
    (site / f"{imported}.py").write_text(module)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"[{group}]\n{entry.replace('= ', f'= {imported}:')}\n" for group, entry in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, imported, raising=False)
