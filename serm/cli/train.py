"""``serm train``."""

from __future__ import annotations

from serm.cli.options import Annotated_, Champion, Json, Judgments, Out, Params, Validated, show
from serm.workspace.layout import CHAMPION, CYCLE, JUDGMENTS, PARAMS


def train(
    champion: Champion = CHAMPION,
    judgments: Judgments = JUDGMENTS,
    annotated: Annotated_ = CYCLE / "annotate",
    validated: Validated = CYCLE / "validate",
    out: Out = CYCLE / "train",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Fine-tune a challenger on new, earlier and seed judgments."""
    from serm import settings, training

    figures = training.train(champion, judgments, annotated, validated, out, settings.load(params))
    show("train", figures, json)
