"""``serm mine``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Champion, Json, Judgments, Out, Params, Reference, Tests, Validated, show
from serm.workspace.layout import CHAMPION, CYCLE, JUDGMENTS, PARAMS, REFERENCE


def mine(
    validated: Validated = CYCLE / "validate",
    reference: Reference = REFERENCE,
    champion: Champion = CHAMPION,
    judgments: Judgments = JUDGMENTS,
    tests: Tests = Path("tests"),
    out: Out = CYCLE / "mine",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Mine the few pairs of the window that are worth a judge's time."""
    from serm import mining, settings

    figures = mining.mine(validated, reference, champion, judgments, tests, out, settings.load(params))
    show("mine", figures, json)
