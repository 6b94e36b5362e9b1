"""Where a verb stands: at the root of its workspace, whichever directory the user is in."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from serm import layout
from serm.errors import UserError

_Workspace = Annotated[
    Path | None, typer.Option("--workspace", help="The workspace; else found upwards from the current directory.")
]


def reads(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the option ``--workspace``, and run it at the workspace's root.

    Paths that the user gave are relative to where the user is, all else (defaults, what params.yaml names, the ledger)
    to the root. Without the option that is the first directory, upwards from here, that holds ``.dvc`` and
    ``params.yaml``; a step runs outside a workspace too, where the user is.
    """
    return _at_root(verb, writes=False)


def writes(verb: Callable[..., None]) -> Callable[..., None]:
    """Do as ``reads`` does, and hold the workspace's lock while the verb runs."""
    return _at_root(verb, writes=True)


def _at_root(verb: Callable[..., None], *, writes: bool) -> Callable[..., None]:
    @functools.wraps(verb)
    def at_root(serm_context: typer.Context, serm_workspace: Path | None = None, **arguments: Any) -> None:
        root = _root(serm_workspace)
        for name, value in arguments.items():
            source = serm_context.get_parameter_source(name)
            if source is not None and source.name != "DEFAULT":
                arguments[name] = _absolute(value)
        with contextlib.chdir(root), _lock(root, str(serm_context.info_name), writes):
            verb(**arguments)

    own = inspect.signature(verb, eval_str=True)
    context = Parameter("serm_context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    workspace = Parameter("serm_workspace", Parameter.KEYWORD_ONLY, default=None, annotation=_Workspace)
    signature = own.replace(parameters=[context, *own.parameters.values(), workspace])
    at_root.__signature__ = signature  # type: ignore[attr-defined]
    at_root.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return at_root


def _root(given: Path | None) -> Path:
    if given is None:
        return layout.root_of(Path.cwd()) or Path.cwd()
    if not given.is_dir():
        raise UserError(f"--workspace {given}: no such directory; give the one that holds .dvc and params.yaml.")
    return given.resolve()


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    return [_absolute(one) for one in value] if isinstance(value, list) else value


def _lock(root: Path, verb: str, writes: bool) -> contextlib.AbstractContextManager[None]:
    if not writes or not (root / layout.DVC).is_dir():
        return contextlib.nullcontext()
    from serm.workspace.lock import writing

    return writing(root, f"serm {verb}")
