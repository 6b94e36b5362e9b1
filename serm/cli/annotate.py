"""``serm annotate``."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Json, Judgments, Knowledge, Mined, Out, Params, Validated, show
from serm.workspace.layout import CYCLE, JUDGMENTS, PARAMS

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Call no judge: print what LLM judges would be asked, and its price.")
]


def annotate(
    mined: Mined = CYCLE / "mine",
    validated: Validated = CYCLE / "validate",
    judgments: Judgments = JUDGMENTS,
    knowledge: Knowledge = Path("knowledge"),
    out: Out = CYCLE / "annotate",
    params: Params = PARAMS,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Have the panel of judges label the mined pairs."""
    from serm import judging, settings

    if dry_run:
        _show(judging.estimate(mined, validated, judgments, knowledge, settings.load(params)), json)
        return
    figures = judging.annotate(mined, validated, judgments, knowledge, out, settings.load(params))
    show("annotate", figures, json)


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
