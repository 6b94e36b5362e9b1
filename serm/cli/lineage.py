"""``serm lineage``."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serm.cli.options import Json

if TYPE_CHECKING:
    from rich.tree import Tree

Cycle = Annotated[str, typer.Argument(help="The cycle, such as cycle-0003.")]
Pair = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="QUERY DOC", help="A query as in the log, and a doc_id: all that the cycle knew of it."),
]


def lineage(cycle: Cycle, pair: Pair = None, json: Json = False) -> None:
    """Walk from a cycle's model, or a pair's score, back to judgments, judges' calls, mining, window and raw files."""
    from serm.workspace.lineage import lineage as walk
    from serm.workspace.store import Workspace

    found = walk(Workspace(Path.cwd()), cycle, pair)
    if json:
        print(jsonlib.dumps(found, sort_keys=True, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(_tree(found["cycle"]["tag"], found))


def _tree(name: str, value: Any) -> Tree:
    """Return what is known as branches and leaves; what is empty is left out."""
    from rich.text import Text
    from rich.tree import Tree

    from serm.escaping import visible

    tree = Tree(Text(visible(name)))
    named = value.items() if isinstance(value, dict) else ((str(row), one) for row, one in enumerate(value, 1))
    for inner, one in named:
        if isinstance(one, dict | list) and one:
            tree.add(_tree(str(inner), one))
        elif one not in (None, [], {}):
            tree.add(Text(visible(f"{inner}: {one}")))
    return tree
