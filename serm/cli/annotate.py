"""``serm annotate``: the step's verb, and what it would cost."""

from __future__ import annotations

import inspect
import json as jsonlib
from typing import Annotated, Any

import typer

from serm.cli.steps import option, verb, with_options
from serm.steps import named

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Call no judge: print what LLM judges would be asked, and its price.")
]
_STEP = named("annotate")
_VERB = verb(_STEP)


def _annotate(*, dry_run: bool, **given: Any) -> None:
    if not dry_run:
        _VERB(**given)
        return
    from serm import judging, settings

    read = {one.name: given[one.name] for one in _STEP.reads}
    _show(judging.estimate(**read, settings=settings.load(given["params"])), given["json"])


_OPTIONS = inspect.signature(_VERB).parameters.values()
annotate = with_options(_annotate, _STEP.name, _STEP.help, *_OPTIONS, option("dry_run", DryRun, False))


def _show(estimates: dict[str, dict[str, int | float]], json: bool) -> None:
    if json:
        print(jsonlib.dumps(estimates, sort_keys=True))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("judge", "questions", "cached", "calls", "input tokens", "output tokens", "cost")
    for judge, of in estimates.items():
        ranges = ("calls", "input_tokens", "output_tokens", "cost")
        told = [f"{of[f'{name}_fewest']:,} to {of[f'{name}_most']:,}" for name in ranges]
        table.add_row(judge, f"{of['questions']:,}", f"{of['cached']:,}", *told)
    if estimates:
        Console().print(table)
    else:
        print("No LLM judges in params.yaml (judging.llms): the offline panel costs nothing.")
