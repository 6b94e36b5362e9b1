"""``serm deploy``."""

from __future__ import annotations

from serm.cli.options import Champion, Evaluated, Json, Out, Params, Trained, Validated, show
from serm.workspace.layout import CHAMPION, CYCLE, PARAMS


def deploy(
    champion: Champion = CHAMPION,
    trained: Trained = CYCLE / "train",
    validated: Validated = CYCLE / "validate",
    evaluated: Evaluated = CYCLE / "evaluate",
    out: Out = CYCLE / "deploy",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Write the canary's InferenceService and try both models in a real KServe server."""
    from serm import serving, settings

    figures = serving.deploy(champion, trained, validated, evaluated, out, settings.load(params))
    show("deploy", figures, json)
