"""The verbs of the steps, built from their table: an option for each thing that a step reads or writes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from serm.cli.options import Json, Out, Params, show
from serm.layout import PARAMS
from serm.steps import Data, Step

Verb = Callable[..., None]


def verb(step: Step) -> Verb:
    """Return the command of a step; it prints the step's figures."""
    return _of_outputs(step) if step.writes is None else _of_paths(step, step.writes)


def with_options(verb: Verb, name: str, help: str, *options: Parameter) -> Verb:
    """Give a function of keyword arguments the name, the help and the options that typer shows."""
    verb.__name__, verb.__doc__ = name, help
    verb.__signature__ = Signature(list(options), return_annotation=None)  # type: ignore[attr-defined]
    return verb


def option(name: str, kind: Any, default: Any) -> Parameter:
    """Return one option, of the type and with the help that ``kind`` says."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def paths(step: Step) -> list[Parameter]:
    """Return an option for each thing that a step reads."""
    return [option(one.name, Annotated[Path, typer.Option(help=one.help)], one.path) for one in step.reads]


COMMON = (option("params", Params, PARAMS), option("json", Json, False))


def _of_paths(step: Step, writes: Data) -> Verb:
    def run(*, out: Path, params: Path, json: bool, **given: Path) -> None:
        from serm import settings

        show(step.name, step(*(given[one.name] for one in step.reads), out, settings.load(params)), json)

    return with_options(run, step.name, step.help, *paths(step), option("out", Out, writes.path), *COMMON)


def _of_outputs(step: Step) -> Verb:
    """Return the command of a step that commits what the steps before it wrote into ``cycle/``."""

    def run(*, params: Path, json: bool) -> None:
        from serm import settings

        show(step.name, step.at(Path.cwd(), settings.load(params)), json)

    return with_options(run, step.name, step.help, *COMMON)
