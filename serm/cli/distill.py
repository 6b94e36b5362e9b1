"""``serm distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serm.cli.options import Champion, Json, Judgments, Mined, Out, Params, Validated, show
from serm.layout import CHAMPION, CYCLE, JUDGMENTS, PARAMS

Teacher = Annotated[
    list[Path], typer.Option("--teacher", help="A model to learn from; give it again, and their mean is learned.")
]


def distill(
    teacher: Teacher,
    champion: Champion = CHAMPION,
    mined: Mined = CYCLE / "mine",
    judgments: Judgments = JUDGMENTS,
    validated: Validated = CYCLE / "validate",
    out: Out = CYCLE / "distill",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Train a smaller student on what teachers say of the mined pairs."""
    from serm import settings, training

    figures = training.distill(teacher, champion, mined, judgments, validated, out, settings.load(params))
    show("distill", figures, json)
