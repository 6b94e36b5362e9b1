"""``serm validate``."""

from __future__ import annotations

from pathlib import Path

from serm.cli.options import CYCLE, PARAMS, Documents, Json, Out, Params, Window, show


def validate(
    window: Window = CYCLE / "ingest",
    documents: Documents = Path("documents"),
    out: Out = CYCLE / "validate",
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Check a window and the catalogue against their contracts; bad rows go to quarantine."""
    from serm import settings, validation

    figures = validation.validate(window, documents, out, settings.load(params))
    show("validate", figures, json)
