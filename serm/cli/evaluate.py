"""``serm evaluate``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import Annotated_, Champion, Json, Out, Params, Reference, Tests, Trained, Validated, show
from serm.workspace.layout import CHAMPION, CYCLE, PARAMS, REFERENCE


def evaluate(
    champion: Champion = CHAMPION,
    trained: Trained = CYCLE / "train",
    annotated: Annotated_ = CYCLE / "annotate",
    tests: Tests = Path("tests"),
    validated: Validated = CYCLE / "validate",
    reference: Reference = REFERENCE,
    out: Out = CYCLE / "evaluate",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Measure champion and challenger on both test sets, and pass or fail the challenger."""
    from serm import release, settings

    figures = release.evaluate(champion, trained, annotated, tests, validated, reference, out, settings.load(params))
    show("evaluate", figures, json)
