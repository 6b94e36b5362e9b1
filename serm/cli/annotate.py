"""``serm annotate``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import CYCLE, JUDGMENTS, PARAMS, Json, Judgments, Knowledge, Mined, Out, Params, Validated, show


def annotate(
    mined: Mined = CYCLE / "mine",
    validated: Validated = CYCLE / "validate",
    judgments: Judgments = JUDGMENTS,
    knowledge: Knowledge = Path("knowledge"),
    out: Out = CYCLE / "annotate",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Have the panel of judges label the mined pairs."""
    from serm import judging, settings

    figures = judging.annotate(mined, validated, judgments, knowledge, out, settings.load(params))
    show("annotate", figures, json)
