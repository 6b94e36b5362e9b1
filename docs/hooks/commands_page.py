"""The reference of the command line, from what typer makes of serm/cli."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from serm.cli import app

INTRODUCTION = """# The command line

Every verb, argument and option, as `serm VERB --help` prints it; this page is written from `serm/cli` at each build. A
mistake of the user's prints one sentence and exits with code 2. Verbs that read or write a workspace are run inside it.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([INTRODUCTION, *_of(typer.main.get_command(app), "serm")])


def _of(command: Any, called: str) -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    context = typer.Context(command, info_name=called)
    if not getattr(command, "commands", None) or called != "serm":
        yield f"## {called}\n"
        yield f"{_text(command.help)}\n"
        pieces = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{called} {pieces}\n```\n"
        rows = [_row(one) for one in command.params if not getattr(one, "hidden", False)]
        if rows:
            yield "| | type | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name, below in getattr(command, "commands", {}).items():
        yield from _of(below, f"{called} {name}")


def _row(one: Any) -> str:
    argument = one.param_type_name == "argument"
    names = one.metavar or one.name.upper() if argument else ", ".join([*one.opts, *one.secondary_opts])
    plain = one.default in (None, False, "", ()) or callable(one.default)
    shown = "required" if one.required else "" if plain else f"`{one.default}`"
    kind = "" if getattr(one, "is_flag", False) else _type(one.type_descriptor.annotation)
    bound = " ".join([f"≥ {one.min}"] * (one.min is not None) + [f"≤ {one.max}"] * (one.max is not None))
    return f"| `{names}` | {' '.join(filter(None, (kind, bound)))} | {shown} | {_text(one.help)} |"


def _type(kind: Any) -> str:
    if get_origin(kind) in (list, tuple):
        return f"{_type(get_args(kind)[0])}, can be given several times"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{value.value}`" for value in kind)
    return {Path: "path", str: "text", int: "whole number", float: "number", datetime: "time"}.get(kind, str(kind))


def _text(text: str | None) -> str:
    return (
        " ".join((text or "").split()).replace("``", "`").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
    )
