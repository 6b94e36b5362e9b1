"""The architecture, drawn from the code: the rows that import-linter holds, and the imports that are really there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import griffe
import grimp

ROOT = Path(__file__).parents[2]
CONTRACT = "Rooms stand in rows"
WIDTH, HIGH, GAP, ROW = 1080, 34, 10, 74
"""Of the drawing, in pixels: its width, a room's height, the gap between rooms, from one row to the next."""


def page() -> str:
    """Return the page as Markdown."""
    rows, arrows = rows_of_rooms(), imports()
    return (
        (ROOT / "docs" / "hooks" / "architecture.md")
        .read_text(encoding="utf-8")
        .format(drawing=drawing(rows, arrows), table=_table(rows, arrows))
    )


def rows_of_rooms() -> list[list[str]]:
    """Return the rooms, a row each, from the top, as the contract in pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(one["layers"] for one in contracts if one["name"].startswith(CONTRACT))
    return [[room.strip() for room in layer.replace(":", "|").split("|")] for layer in layers]


def imports() -> dict[str, set[str]]:
    """Return which rooms each room imports, anywhere in it."""
    graph = grimp.build_graph("serm", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for row in rows_of_rooms() for room in row}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            here, there = (name.split(".")[1] if "." in name else "" for name in (importer, imported))
            if here in found and there in found and here != there:
                found[here].add(there)
    return found


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that no way over other rooms stands for."""

    def reach(room: str) -> set[str]:
        return {room}.union(*(reach(one) for one in arrows[room]))

    reached = {room: reach(room) for room in arrows}
    return {
        room: {one for one in known if not any(one in reached[other] for other in known - {one})}
        for room, known in arrows.items()
    }


def drawing(rows: list[list[str]], arrows: dict[str, set[str]]) -> str:
    """Return an SVG: a box a room, and arrows for the imports that no way over other rooms stands for.

    The lowest row has no arrows: every room may know it.
    """
    place = {}
    for number, row in enumerate(rows):
        wide = min(150.0, (WIDTH - GAP * (len(row) - 1)) / len(row))
        left = (WIDTH - wide * len(row) - GAP * (len(row) - 1)) / 2
        place |= {room: (left + at * (wide + GAP), number * ROW + 8, wide) for at, room in enumerate(row)}
    lines = [
        f'<svg class="house" viewBox="0 0 {WIDTH} {len(rows) * ROW}" role="img" '
        'aria-label="The rooms and their imports">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for room, known in reduced(arrows).items():
        x, y, wide = place[room]
        for one in sorted(known - set(rows[-1])):
            to, below, width = place[one]
            start, end = (x + wide / 2, y + HIGH), (to + width / 2, below - 2)
            middle = (start[1] + end[1]) / 2
            lines.append(
                f'<path class="arrow" d="M{start[0]:.0f} {start[1]:.0f}'
                f"C{start[0]:.0f} {middle:.0f} {end[0]:.0f} {middle:.0f} "
                f'{end[0]:.0f} {end[1]:.0f}" marker-end="url(#tip)"/>'
            )
    for room, (x, y, wide) in place.items():
        lines.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{HIGH}" rx="5"/>')
        lines.append(f'<text x="{x + wide / 2:.1f}" y="{y + HIGH / 2 + 4.5}" text-anchor="middle">{room}</text>')
    return "\n".join([*lines, "</svg>"])


def _table(rows: list[list[str]], arrows: dict[str, set[str]]) -> str:
    package = griffe.load("serm", search_paths=[str(ROOT)])
    lowest = set(rows[-1])
    told = []
    for room in (room for row in rows for room in row):
        said = package.modules[room].docstring
        first = " ".join(said.value.partition("\n\n")[0].split()) if said else ""
        known = ", ".join(sorted(arrows[room] - lowest)) or "–"
        told.append(f"| `{room}` | {first.replace('``', '`').replace('|', chr(92) + '|')} | {known} |")
    return "| room | is | knows, beside the lowest row |\n|---|---|---|\n" + "\n".join(told)
